"""What is seen of a run while it goes on: its score after every epoch, and the rows of an update that broke it off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback

from gemma_encoder.errors import CommandFailed

CHECKPOINT_SECONDS = 600  # what a killed run loses at most; a run that is shorter writes no checkpoint
CHECKPOINT = "checkpoint-*"


class TrainingError(CommandFailed):
    """Training cannot go on: the loss or the gradient is not finite."""


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation rows: the task's score in points, its metrics, the mean loss, the predictions."""

    score: float
    metrics: dict[str, float]
    loss: float
    predictions: list[Any]


class EpochCurve(TrainerCallback):
    """Scores the model after every epoch, stops a run whose loss is not finite, and has long runs saved on the way.

    Everything it knows lies in Trainer's own log, which every checkpoint holds: a resumed run has the whole curve.
    """

    def __init__(self, evaluate: Callable[[], Evaluation], model: nn.Module, rows: Dataset):
        self.evaluate, self.last, self.saved = evaluate, None, time.monotonic()
        self.rows, self.seen, self.tokens, self.evaluation_seconds = rows, watch(model), 0, 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.seen.clear()

    def on_log(self, args, state, control, logs=None, **kwargs):
        wrong = [f"{key} {logs[key]}" for key in ("loss", "grad_norm") if not math.isfinite((logs or {}).get(key, 0))]
        if wrong:
            good = ", ".join(path.name for path in Path(args.output_dir).glob(CHECKPOINT)) or "none"
            raise TrainingError(
                f"{' and '.join(wrong)} at step {state.global_step} with learning_rate {args.learning_rate:g}; "
                f"training rows of the batch: {rows_of(self.seen, self.rows)}; last good state: {good}"
            )

    def on_step_end(self, args, state, control, **kwargs):
        self.tokens += sum(int(mask.sum()) for _, mask in self.seen)
        epoch_ends = state.global_step % (state.max_steps // args.num_train_epochs) == 0  # saved when it is scored
        control.should_save = not epoch_ends and self._due()

    def on_epoch_end(self, args, state, control, **kwargs):
        start = time.perf_counter()
        self.last = self.evaluate()
        self.evaluation_seconds += time.perf_counter() - start
        losses = [row["loss"] for row in state.log_history if round(state.epoch) - 1 < row["epoch"] and "loss" in row]
        epoch = {"epoch": round(state.epoch), "step": state.global_step, "train_loss": sum(losses) / len(losses)}
        state.log_history.append(epoch | {"validation_loss": self.last.loss, "score": self.last.score})
        control.should_save = state.global_step < state.max_steps and self._due()

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()

    def _due(self) -> bool:
        return time.monotonic() - self.saved >= CHECKPOINT_SECONDS


def watch(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """A list that every training pass of `model` adds its `(input_ids, attention_mask)` to; clear it at will."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Tensor]) -> None:
        if module.training:
            seen.append((kwargs["input_ids"], kwargs["attention_mask"]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def rows_of(seen: Sequence[tuple[Tensor, Tensor]], rows: Dataset) -> list[int]:
    """The indices of the `rows` whose tokens are in those batches; rows of the same tokens cannot be told apart."""
    wanted = {tuple(row[real.bool()].tolist()) for ids, mask in seen for row, real in zip(ids, mask, strict=True)}
    return [index for index, tokens in enumerate(rows["input_ids"]) if _flat(tokens) in wanted]


def _flat(tokens: Sequence) -> tuple[int, ...]:
    """The tokens of a row, or of all candidates of a list, one after the other."""
    return tuple(chain.from_iterable(tokens) if tokens and isinstance(tokens[0], Sequence) else tokens)
