"""How fast this machine fine-tunes a model: a few updates and one evaluation of it, timed.

FLOPs alone do not say it. A narrow model spends most of its time on what is no matrix product (norms, softmax, dropout,
Python), a wide one hardly any, and the optimiser passes over every weight once an update, however few tokens it saw:

    seconds = start + updates * update + tokens trained on * trained + tokens evaluated * evaluated

`update` and `trained` follow from updates of two sizes. A token of longer rows costs more by the multiplications of its
attention map. The weights are random: they cost what others cost, and nothing is downloaded.
"""

from __future__ import annotations

import math
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice, pairwise
from statistics import median

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModel, PreTrainedConfig, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from gemma_encoder.experiments.run import EVALUATION_BATCH, adapted, arguments
from gemma_encoder.experiments.shapes import Shape, config_of
from gemma_encoder.experiments.sizes import Work
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.tasks import collate, get_task, logits_of

UPDATES = 3  # timed at each size; one more goes before, in which memory is first touched
TOKENS = 2048  # of a timed update at most; a larger one costs in proportion
STANDS_FOR = "stsb"  # whose head, one number a row, stands for that of every task


@dataclass(frozen=True)
class Pace:
    """Seconds: of the start, of an update whatever its size, of a token beyond that, of a token in evaluation.

    length: tokens of the rows timed; where: what they were timed on.
    """

    start: float
    update: float
    trained: float
    evaluated: float
    length: float
    where: str

    def seconds(self, spec: RunSpec, work: Work, shape: Shape) -> float:
        """What the run of `spec` takes, from reading its rows to its last score."""
        longer = shape.multiplications(work.length) / shape.multiplications(self.length)
        updates = spec.epochs * math.ceil(work.rows / spec.batch_size)
        trained = spec.epochs * work.rows * work.texts * work.length * self.trained
        evaluated = spec.epochs * work.evaluated * self.evaluated
        return self.start + work.seconds + updates * self.update + longer * (trained + evaluated)


class _Clock(TrainerCallback):
    """When each update ended. Trainer logs every loss, so a device has finished by then."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:  # the last log is a summary
            self.ends.append(time.perf_counter())


def pace(spec: RunSpec, work: Work) -> Pace:
    """The pace of the model of `spec` in rows as long as those of `work`, on the GPU or on one thread of the CPU."""
    threads, where = torch.get_num_threads(), f"one thread of this {platform.machine()}"
    if torch.cuda.is_available():
        where = f"this {torch.cuda.get_device_name()}"
    torch.set_num_threads(1)  # as every run of a sweep
    try:
        return _timed(replace(spec, task=STANDS_FOR, micro_batch=0, epochs=1, candidates=0), work, where)
    finally:
        torch.set_num_threads(threads)


def _timed(spec: RunSpec, work: Work, where: str) -> Pace:
    start, config = time.perf_counter(), config_of(spec.model)
    model = adapted(spec, AutoModel.from_config(config))
    start = time.perf_counter() - start
    count = max(2, round(min(spec.batch_size * work.texts, TOKENS / work.length)))
    rows = _rows(work, count * (UPDATES + 1), config)
    large, of_large = _update(model, replace(spec, batch_size=count), rows)
    half = count // 2
    small, of_small = _update(model, replace(spec, batch_size=half), rows.select(range(half * (UPDATES + 1))))
    trained = min(max(large - small, 0) / (of_large - of_small), large / of_large)
    begin = time.perf_counter()
    logits_of(get_task(STANDS_FOR), model, rows.select(range(count)), EVALUATION_BATCH)
    evaluated = (time.perf_counter() - begin) / sum(map(len, rows["input_ids"][:count]))
    return Pace(start, large - of_large * trained, trained, evaluated, work.length, where)


def _rows(work: Work, count: int, config: PreTrainedConfig) -> Dataset:
    """Rows of the given lengths, of any tokens but BOS, which a row has once at most."""
    ids, bos = [], config.bos_token_id or 0
    for length in islice(cycle(work.lengths), count):
        drawn = torch.randint(config.vocab_size - 1, (max(1, round(length)),))
        ids.append((drawn + (drawn >= bos)).tolist())
    return Dataset.from_dict({"input_ids": ids, "labels": [0.0] * count})


def _update(model: nn.Module, spec: RunSpec, rows: Dataset) -> tuple[float, float]:
    """Seconds of an update, and its tokens; the median of those that follow the first."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            arguments(spec, folder),
            train_dataset=rows,
            data_collator=partial(collate, pad_id=0),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    tokens = sum(map(len, rows["input_ids"][:])) / len(rows) * spec.batch_size
    return median(after - before for before, after in pairwise(clock.ends)), tokens
