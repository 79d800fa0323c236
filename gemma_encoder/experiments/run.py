"""One fine-tuning, by transformers' Trainer: adapt the decoder, prove its mask, train, score the last step."""

from __future__ import annotations

import math
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from datasets import DatasetDict
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from gemma_encoder import attention
from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.store import RUNS, RunResult, load, run_folder, save
from gemma_encoder.heads import GemmaEncoderForSequenceClassification
from gemma_encoder.inference import in_batches
from gemma_encoder.loading import load_tokenizer
from gemma_encoder.tasks import Task, collate, compute, encode, get_task, score
from gemma_encoder.tasks import load as load_task
from gemma_encoder.verify import check_visibility

EVALUATION_BATCH = 128  # rows
CHECKPOINT_SECONDS = 600  # what a killed run loses at most; a run that is shorter writes no checkpoint
CHECKPOINT = "checkpoint-*"
SUBSET_SEED = 2503  # the subset of examples is the same for every seed of a spec


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is not a number."""


def split(spec: RunSpec) -> DatasetDict:
    """The rows a run trains on and is scored on: "train" and "validation".

    With evaluate_on="holdout" both come from the training split, the last tenth of its fixed shuffle being scored.
    """
    rows = load_task(get_task(spec.task), spec.data)
    train, validation = rows["train"].shuffle(seed=SUBSET_SEED), rows["validation"]
    if spec.evaluate_on == "holdout":
        cut = len(train) - max(1, len(train) // 10)
        train, validation = train.select(range(cut)), train.select(range(cut, len(train)))
    if spec.train_examples:
        train = train.select(range(min(spec.train_examples, len(train))))
    return DatasetDict(train=train, validation=validation)


def predictions_of(task: Task, logits: torch.Tensor) -> list[float]:
    """Class index, or the score itself for regression; `logits (examples, num_labels)`."""
    return (logits[:, 0] if task.kind == "regression" else logits.argmax(dim=1)).tolist()


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation rows: the task's score in points, its metrics, the mean loss, the predictions."""

    score: float
    metrics: dict[str, float]
    loss: float
    predictions: list[float]


class EpochCurve(TrainerCallback):
    """Scores the model after every epoch, stops a run whose loss is not finite, and has long runs saved on the way.

    Everything it knows lies in Trainer's own log, which every checkpoint holds: a resumed run has the whole curve.
    """

    def __init__(self, evaluate: Callable[[], Evaluation]):
        self.evaluate, self.last, self.saved = evaluate, None, time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            good = ", ".join(path.name for path in Path(args.output_dir).glob(CHECKPOINT)) or "none"
            raise TrainingError(
                f"loss is {loss} at step {state.global_step} with learning_rate {args.learning_rate:g}; "
                f"last good state: {good}"
            )

    def on_step_end(self, args, state, control, **kwargs):
        epoch_ends = state.global_step % (state.max_steps // args.num_train_epochs) == 0  # saved when it is scored
        control.should_save = not epoch_ends and self._due()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.last = self.evaluate()
        losses = [row["loss"] for row in state.log_history if round(state.epoch) - 1 < row["epoch"] and "loss" in row]
        epoch = {"epoch": round(state.epoch), "step": state.global_step, "train_loss": sum(losses) / len(losses)}
        state.log_history.append(epoch | {"validation_loss": self.last.loss, "score": self.last.score})
        control.should_save = state.global_step < state.max_steps and self._due()

    def on_save(self, args, state, control, **kwargs):
        self.saved = time.monotonic()

    def _due(self) -> bool:
        return time.monotonic() - self.saved >= CHECKPOINT_SECONDS


def _arguments(spec: RunSpec, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=spec.batch_size,
        num_train_epochs=spec.epochs,
        learning_rate=spec.learning_rate,
        warmup_steps=spec.warmup,  # below 1: a share of all updates
        weight_decay=spec.weight_decay,
        lr_scheduler_type="linear",
        seed=spec.seed,
        save_strategy="no",  # EpochCurve says when
        save_total_limit=1,
        logging_steps=1,  # every loss is looked at, so that a run stops at the first that is not finite
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _environment(model: GemmaEncoderForSequenceClassification) -> dict[str, str]:
    softcap = getattr(model.config.decoder, "attn_logit_softcapping", None)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "attention_path": attention.path(softcap) + (", unpadded" if model.config.unpadded else ", padded"),
        "visibility": f"measured before training: {model.config.attention}",
    }


def train(spec: RunSpec, working: Path, keep: Path | None = None) -> tuple[RunResult, list[dict]]:
    """Fine-tune as `spec` says; returns the result (not yet on disk) and one prediction per validation row.

    `working` holds the checkpoints of a long run, and training goes on from the last one it finds there. With `keep`,
    the fine-tuned model and its tokenizer are written to that folder.
    """
    task, rows = get_task(spec.task), split(spec)
    tokenizer = load_tokenizer(spec.model)
    encoded = {name: encode(part, task, tokenizer, spec.max_length, spec.truncate) for name, part in rows.items()}
    features, cut = {name: pair[0] for name, pair in encoded.items()}, sum(pair[1] for pair in encoded.values())
    inputs, labels = [row["input_ids"] for row in features["validation"]], list(rows["validation"]["label"])

    side = "left" if spec.padding == "left" else "right"  # an unpadded batch is packed by the model itself

    set_seed(spec.seed)
    model = GemmaEncoderForSequenceClassification.from_decoder(
        spec.model,
        attention=spec.attention,
        pooling=spec.pooling,
        attention_dropout=spec.attention_dropout,
        ffn_dropout=spec.ffn_dropout,
        unpadded=spec.padding == "none",
        num_labels=task.num_labels,
        text_columns=task.text_columns,
    )
    check_visibility(model)

    def evaluate() -> Evaluation:
        logits = in_batches(model, inputs, lambda ids, mask: model(ids, mask).logits, EVALUATION_BATCH, side=side)
        predictions = predictions_of(task, logits)
        values = compute(task, predictions, labels)
        return Evaluation(score(task, values), values, model.loss(logits, torch.tensor(labels)).item(), predictions)

    curve = EpochCurve(evaluate)
    trainer = Trainer(
        model,
        _arguments(spec, str(working)),
        train_dataset=features["train"],
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id, side=side),
        callbacks=[curve],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    resumed = any(working.glob(CHECKPOINT))
    trainer.train(resume_from_checkpoint=resumed)
    seconds = time.perf_counter() - start
    if keep is not None:
        model.save_pretrained(keep)
        tokenizer.save_pretrained(keep)

    final = curve.last
    tokens = spec.epochs * sum(len(row["input_ids"]) for row in features["train"])
    timing = {
        "train_seconds": seconds,
        "train_tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    environment = {**_environment(model), "truncated": str(cut), "resumed": str(resumed)}
    answers = [{"row": row, "prediction": value, "label": labels[row]} for row, value in enumerate(final.predictions)]
    rows_of_curve = [row for row in trainer.state.log_history if "validation_loss" in row]
    return RunResult(spec, final.metrics, final.score, rows_of_curve, timing, environment, Path(os.devnull)), answers


def run(spec: RunSpec, root: Path = RUNS, keep: Path | None = None) -> RunResult:
    """The result of `spec`: read if it was ever finished, trained and stored otherwise.

    A run that was killed goes on from its last checkpoint, if it ran long enough to write one. With `keep`, a folder
    that must not exist yet, the fine-tuned model is kept there; a finished run is then trained again.
    """
    if keep is not None and keep.exists():
        raise InputError(f"folder {str(keep)!r} is there already; valid: a new one")
    finished = load(spec, root)
    if finished and keep is None:
        return finished
    working = root / f".{run_folder(spec, root).name}.training"
    try:
        result = save(*train(spec, working, keep), root)
        shutil.rmtree(working, ignore_errors=True)
        return result
    finally:
        if not any(working.glob(CHECKPOINT)):
            shutil.rmtree(working, ignore_errors=True)
