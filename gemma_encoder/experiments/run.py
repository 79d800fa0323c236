"""One fine-tuning, by transformers' Trainer: adapt the decoder, prove its mask, train, score the last step."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from gemma_encoder.attention import paths_taken
from gemma_encoder.compiled import compile_layers
from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.splits import split
from gemma_encoder.experiments.store import RUNS, RunResult, alone, load, run_folder, save
from gemma_encoder.experiments.watch import CHECKPOINT, EpochCurve, Evaluation
from gemma_encoder.files import whole_folder
from gemma_encoder.inference import CPU_SLOTS
from gemma_encoder.inputs import check_row_lengths
from gemma_encoder.loading import load_tokenizer
from gemma_encoder.memory import keep_freed_memory, peak_memory
from gemma_encoder.model import encoder_of
from gemma_encoder.paths import check_writable
from gemma_encoder.tasks import (
    collate,
    compute,
    encode,
    get_task,
    head_of,
    joined,
    logits_of,
    loss_of,
    predictions_of,
    references_of,
    score,
)
from gemma_encoder.tasks.outputs import Head

EVALUATION_BATCH = 128  # rows
# batch_spread evaluates again in batches a third as large: in half precision the same rows round differently there
OTHER_BATCH = 3


def arguments(spec: RunSpec, folder: str) -> TrainingArguments:
    """How Trainer trains as `spec` says."""
    settings = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=spec.micro_batch or spec.batch_size,
        gradient_accumulation_steps=spec.batch_size // (spec.micro_batch or spec.batch_size),
        bf16=spec.precision == "bfloat16",
        use_cpu=spec.precision == "bfloat16" and not torch.cuda.is_available(),  # Trainer wants it said
        activation_checkpointing=spec.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
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
    settings._n_gpu = min(settings.n_gpu, 1)  # on each of several, Trainer would put a batch of its own into an update
    return settings


def _environment(model: Head) -> dict[str, str]:
    encoder = encoder_of(model)
    ran = paths_taken(encoder.backbone)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": str(torch.get_num_threads()),
        "attention_path": ", ".join([*ran, "unpadded" if encoder.config.unpadded else "padded"]),
        "visibility": f"measured before training: {model.config.attention}",
    }


def _batch_spread(
    evaluate: Callable[..., Evaluation], usual: Evaluation, lengths: list[list[int]], on_cpu: bool
) -> str:
    """By how many points the score moves when the same rows are evaluated in other batches: by rounding alone."""
    other = _smaller_batch(max(chain.from_iterable(lengths)), on_cpu)
    return f"{abs(evaluate(batch_size=other).score - usual.score):.2f}"


def _smaller_batch(longest: int, on_cpu: bool) -> int:
    """How many of the longest rows make batches of a third of the slots that an evaluation has.

    On a CPU their number alone says nothing: batches are no larger than `CPU_SLOTS` there.
    """
    slots = EVALUATION_BATCH * longest
    return max(1, (min(slots, CPU_SLOTS) if on_cpu else slots) // OTHER_BATCH // longest)


def _encoded(name: str, rows: Dataset, spec: RunSpec, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, int]:
    """`encode`, whose errors say of which split they number the rows, which are shuffled."""
    try:
        return encode(rows, get_task(spec.task), tokenizer, spec.max_length, spec.truncate)
    except InputError as error:
        raise InputError(f"{name} rows, in the order of this run: {error}") from None


def _lengths_of(features: Dataset) -> list[list[int]]:
    """How many tokens every text of every row has: one text, in lists one for each candidate."""
    rows = features["input_ids"][:]
    return [[len(row)] for row in rows] if isinstance(rows[0][0], int) else [list(map(len, row)) for row in rows]


def _timing(seconds: float, evaluating: float, tokens: int, trained: int) -> dict[str, float]:
    """`seconds` of this process, `evaluating` among them; `tokens` of the whole run, and those `trained` on since then.

    The process has its peak from this run or from one before it.
    """
    on_gpu = {"gpu_peak_mib": torch.cuda.max_memory_allocated() / 2**20} if torch.cuda.is_available() else {}
    return {
        "train_seconds": seconds - evaluating,
        "evaluation_seconds": evaluating,
        "train_tokens": tokens,
        "tokens_per_second": trained / (seconds - evaluating),
        "process_peak_mib": peak_memory(),
        **on_gpu,
    }


def adapted(spec: RunSpec, decoder: PreTrainedModel | None = None) -> nn.Module:
    """The decoder of `spec`, or the given one, adapted, with the head of the task; its mask is proven on the way."""
    task = get_task(spec.task)
    model = head_of(task).from_decoder(
        decoder or spec.model,
        attention=spec.attention,
        pooling=spec.pooling,
        attention_dropout=spec.attention_dropout,
        ffn_dropout=spec.ffn_dropout,
        unpadded=spec.padding == "none",
        num_labels=task.num_labels,
        id2label=dict(enumerate(task.labels)) or None,
        ranking_loss=spec.ranking_loss,
        text_columns=task.text_columns,
    )
    if not spec.lora_rank:
        return model
    from gemma_encoder.lora import add_lora  # PEFT is an extra, and slow to import

    return add_lora(model, spec.lora_rank, spec.lora_alpha)


def _keep(model: nn.Module, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Write the fine-tuned model, LoRA merged into it, and its tokenizer to the new folder `target`."""
    if not isinstance(model, PreTrainedModel):
        from gemma_encoder.lora import merge_lora

        model = merge_lora(model)
    with whole_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def train(spec: RunSpec, working: Path) -> tuple[RunResult, list[dict], nn.Module]:
    """Fine-tune as `spec` says; returns the result (not yet on disk), one prediction per validation row, and the model.

    `working` holds the checkpoints of a long run, and training goes on from the last one it finds there.
    """
    keep_freed_memory()
    task, rows = get_task(spec.task), split(spec)
    tokenizer = load_tokenizer(spec.model)
    encoded = {name: _encoded(name, part, spec, tokenizer) for name, part in rows.items()}
    features, cut = {name: pair[0] for name, pair in encoded.items()}, sum(pair[1] for pair in encoded.values())
    references = {name: references_of(task, part) for name, part in rows.items() if name != "train"}

    side = "left" if spec.padding == "left" else "right"  # an unpadded batch is packed by the model itself
    set_seed(spec.seed)
    model = adapted(spec)
    lengths = {name: _lengths_of(part) for name, part in features.items()}
    for name, part in lengths.items():
        check_row_lengths(part, encoder_of(model).config, of=f"{name} ")
    if spec.compiled:
        compile_layers(model)

    def evaluate(name: str = "validation", batch_size: int = EVALUATION_BATCH) -> Evaluation:
        logits = logits_of(task, model, features[name], batch_size, side)
        predictions = predictions_of(task, logits, rows[name])
        values = compute(task, predictions, references[name])
        return Evaluation(score(task, values), values, loss_of(task, model, logits, rows[name]), predictions)

    curve = EpochCurve(evaluate, model, features["train"])
    trainer = Trainer(
        model,
        arguments(spec, str(working)),
        train_dataset=features["train"],
        data_collator=partial(collate, pad_id=tokenizer.pad_token_id, side=side),
        callbacks=[curve],
    )
    trainer.remove_callback(PrinterCallback)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    resumed = any(working.glob(CHECKPOINT))
    trainer.train(resume_from_checkpoint=resumed)
    seconds = time.perf_counter() - start
    known = {"training_rows": len(features["train"]), "truncated": cut, "resumed": resumed}
    environment = _environment(model) | {name: str(value) for name, value in known.items()}
    if spec.precision == "bfloat16":
        on_cpu = model.device.type == "cpu"
        environment["batch_spread"] = _batch_spread(evaluate, curve.last, lengths["validation"], on_cpu)

    final = {name: curve.last if name == "validation" else evaluate(name) for name in references}
    metrics = joined({name: part.metrics for name, part in final.items()})
    answers = [
        {"split": name, "row": row, "prediction": prediction, "label": label}
        for name, part in final.items()
        for row, (prediction, label) in enumerate(zip(part.predictions, references[name], strict=True))
    ]
    points = [row for row in trainer.state.log_history if "validation_loss" in row]
    tokens = spec.epochs * sum(chain.from_iterable(lengths["train"]))
    timing = _timing(seconds, curve.evaluation_seconds, tokens, curve.tokens)
    return RunResult(spec, metrics, score(task, metrics), points, timing, environment, Path(os.devnull)), answers, model


def run(spec: RunSpec, root: Path = RUNS, keep: Path | None = None) -> RunResult:
    """The result of `spec`: read if it was ever finished, trained and stored otherwise.

    A run that was killed goes on from its last checkpoint, if it ran long enough to write one, and one that another
    process is at is waited for. With `keep`, a folder that must not exist yet, the fine-tuned model is kept there; a
    finished run is then trained again.
    """
    _check_new(keep)
    finished = load(spec, root)
    if finished and keep is None:
        return finished
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise InputError(
            f"one run was launched in {processes} processes; valid: 1, whose batches are those of its spec"
        )
    for folder in [root, *([keep.parent] if keep else [])]:
        check_writable(folder)  # before hours of training, not after
    name = run_folder(spec, root).name
    with alone(root / f".{name}.lock"):
        _check_new(keep)  # another process may have made it meanwhile
        if keep is None and (finished := load(spec, root)):
            return finished  # another process made it meanwhile
        return _trained(spec, root, root / f".{name}.training", keep)


def _check_new(keep: Path | None) -> None:
    if keep is not None and keep.exists():
        raise InputError(f"folder {str(keep)!r} is there already; valid: a new one")


def _trained(spec: RunSpec, root: Path, working: Path, keep: Path | None) -> RunResult:
    """Train and store. The result is stored before the model, which is larger and may find no room."""
    for folder in working.glob(CHECKPOINT):
        if not (folder / "trainer_state.json").exists():  # Trainer writes it last: the run was killed while saving
            shutil.rmtree(folder)
    try:
        result, predictions, model = train(spec, working)
        result = save(result, predictions, root)
        if keep is not None:
            _keep(model, load_tokenizer(spec.model), keep)
        shutil.rmtree(working, ignore_errors=True)
        return result
    finally:
        if not any(working.glob(CHECKPOINT)):
            shutil.rmtree(working, ignore_errors=True)
