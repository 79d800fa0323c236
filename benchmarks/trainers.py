"""What every Trainer of a benchmark has in common. Few imports: a GPU machine measures with it, too."""

from __future__ import annotations

import tempfile
import time

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from benchmarks.timing import wait


class Clock(TrainerCallback):
    """When the first update began, and when each was done; evaluation and start-up are left out."""

    def __init__(self):
        self.moments: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        wait(args.device)
        self.moments.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the start of the first update to the end of the last."""
        return self.moments[-1] - self.begun


def arguments(kind: type[TrainingArguments], batch_size: int, **others: object) -> TrainingArguments:
    """The settings of every contender: those of a run of the kit, for one epoch on a CPU, unless `others` differ."""
    settings = {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "seed": 0,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return kind(**settings | others)


def clocked_training(trainer: Trainer, *callbacks: TrainerCallback) -> Clock:
    """Train, in silence, with these callbacks and a clock."""
    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    for callback in (*callbacks, clock):
        trainer.add_callback(callback)
    trainer.train()
    return clock
