"""Where the time of a run goes, and how far it is from what the machine can do.

Forward, backward, the clipping of the gradient and the optimiser, which are the mathematics of an update, are clocked
inside Trainer; everything else of a step is overhead. Utilisation is the arithmetic that the model needs (`needed`)
over what this machine's best matrix product does in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainerCallback

from benchmarks.contenders import DYNAMIC, KIT, contender, kit_model
from benchmarks.timing import Row, clocked, of_rounds, take_turns
from benchmarks.trainers import clocked_training
from benchmarks.workload import Work, config_of, tokenizer, work
from gemma_encoder import linear
from gemma_encoder.experiments.shapes import Shape, shape_in
from gemma_encoder.tasks import collate

SQUARES = (512, 1024, 2048)  # sides of the matrices whose product gives the ceiling
BATCH = 32
TOKENS = 1024  # of a step, whatever the length of its rows
PARTS = ("forward", "backward", "gradient clipping", "optimiser", "everything else")


class Parts(TrainerCallback):
    """Seconds of one run by part, from hooks around the model, the backward pass and the optimiser."""

    def __init__(self, trainer):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        trainer.model.register_forward_pre_hook(lambda *_: self._start())
        trainer.model.register_forward_hook(lambda *_: self._stop("forward"))
        for part, name in (("backward", "backward"), ("gradient clipping", "clip_grad_norm_")):
            setattr(trainer.accelerator, name, self._timed(part, getattr(trainer.accelerator, name)))

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        inner = getattr(optimizer, "optimizer", optimizer)
        inner.register_step_pre_hook(lambda *_: self._start())
        inner.register_step_post_hook(lambda *_: self._stop("optimiser"))

    def _timed(self, part: str, call: Callable) -> Callable:
        def timed(*args, **kwargs):
            self._start()
            result = call(*args, **kwargs)
            self._stop(part)
            return result

        return timed

    def _start(self) -> None:
        self.at = time.perf_counter()

    def _stop(self, part: str) -> None:
        self.seconds[part] += time.perf_counter() - self.at


def parts(shape: str, name: str, rows: Work, batch_size: int) -> dict[str, float]:
    """Seconds of one epoch of contender `name`, by part."""
    trainer = contender(name, shape, rows, batch_size)()
    watch = Parts(trainer)
    clock = clocked_training(trainer, watch)
    return watch.seconds | {"everything else": clock.seconds - sum(watch.seconds.values())}


def anatomy(data: Path | None, quick: bool) -> list[Row]:
    """Shares of a step, of the kit and of Trainer with dynamic padding."""
    table = []
    for shape, steps in ({"tiny": 4} if quick else {"tiny": 12, "30M": 3}).items():
        rows = work("SST-2", steps * BATCH, data)
        for name in (KIT, DYNAMIC):
            parts(shape, name, rows, BATCH)  # the first run of a process pays for what is set up once
            found = parts(shape, name, rows, BATCH)
            whole = sum(found.values())
            table += [
                Row("anatomy", f"{shape}, SST-2, {name}", part, value=100 * seconds / whole, unit="% of a step")
                for part, seconds in found.items()
            ]
    return table


def ceiling() -> float:
    """Operations a second of the best matrix product of this machine, float32, on all threads of this process.

    Of torch's own, and of oneDNN's, which the kit may choose.
    """
    best, ways = 0.0, [torch.mm, *([linear.product] if torch.backends.mkldnn.is_available() else [])]
    for side, multiply in product(SQUARES, ways):
        left, right = torch.randn(side, side), torch.randn(side, side)
        seconds = min(clocked(partial(multiply, left, right))() for _ in range(6))
        best = max(best, 2 * side**3 / seconds)
    return best


def update(model: PreTrainedModel, lengths: list[int]) -> None:
    """Forward and backward over one batch of rows of these lengths."""
    features = [{"input_ids": [1, *[5] * (length - 1)], "labels": at % 2} for at, length in enumerate(lengths)]
    model(**collate(features, tokenizer().pad_token_id)).loss.backward()
    model.zero_grad()


def needed(shape: Shape, lengths: list[int]) -> float:
    """`shape.training` where the last token is read: for the others the last layer needs keys and values alone."""
    unread, pairs = sum(lengths) - len(lengths), sum(length**2 - length for length in lengths)
    query_and_output = 2 * shape.width * shape.heads * shape.head_dim
    skipped = 6 * (query_and_output + 3 * shape.width * shape.ffn) * unread
    return shape.training(lengths) - skipped - 12 * shape.heads * shape.head_dim * pairs


def scaling(data: Path | None, quick: bool) -> list[Row]:
    """Cost against length at a fixed number of tokens, against the rows of a batch, and against the size of the model.

    Next to each time stands the utilisation; the ceiling is measured before and after, and the greater one counts.
    """
    del data  # lengths are set here
    shapes, long = ("tiny",) if quick else ("tiny", "8M", "30M"), (32, 128) if quick else (16, 64, 128, 256, 512)
    main = shapes[-1]
    cases = {f"{main}, {TOKENS} tokens in rows of {n}": (main, [n] * (TOKENS // n)) for n in long}
    cases |= {f"{main}, {n} rows of 32 tokens": (main, [32] * n) for n in ((1, 8) if quick else (1, 4, 16))}
    cases |= {f"{shape}, SST-2 lengths": (shape, list(map(len, work("SST-2", 32).ids))) for shape in shapes}
    models, before = {shape: kit_model(shape).train() for shape in shapes}, ceiling()
    calls = {case: clocked(partial(update, models[shape], lengths)) for case, (shape, lengths) in cases.items()}
    taken = take_turns(calls, 2 if quick else 30)
    top = max(before, ceiling())
    table = [Row("scaling", "matrix product", "ceiling", value=top / 1e9, unit="GFLOP/s")]
    for case, (shape, lengths) in cases.items():
        table.append(Row("scaling", case, "forward and backward", taken[case], sum(lengths), len(lengths)))
        shares = [100 * needed(shape_in(config_of(shape)), lengths) / seconds / top for seconds in taken[case]]
        table.append(of_rounds("scaling", case, "utilisation", shares, "% of the ceiling"))
    return table
