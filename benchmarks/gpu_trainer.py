"""The same updates by transformers' Trainer, as the kit's runs and `run_glue.py` make them."""

from __future__ import annotations

import tempfile
import time

import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from benchmarks.timing import wait
from gemma_encoder.rows import padded


class Clock(TrainerCallback):
    """The moment at which each update was done."""

    def __init__(self):
        self.moments: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        wait(args.device)
        self.moments.append(time.perf_counter())


def by_trainer(model: PreTrainedModel, rows: list[dict[str, torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds from update to update in the last of three epochs: what is compiled compiles in the first two.

    Everything that Trainer does is in them: collating, clipping the gradient, logging every loss.
    """
    logging.set_verbosity_error()
    clock, size = Clock(), len(rows[0]["labels"])
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=size,
            num_train_epochs=3,
            learning_rate=1e-6,
            train_sampling_strategy="sequential",  # the batches of the plain loop
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
        )
        trainer = Trainer(model, settings, train_dataset=features(rows), data_collator=collated, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [end - start for start, end in zip(clock.moments[:-1], clock.moments[1:], strict=True)][-len(rows) :]


def features(rows: list[dict[str, torch.Tensor]]) -> list[dict]:
    """The rows of all batches, one by one, without their padding."""
    return [
        {"input_ids": ids[real.bool()].tolist(), "label": label.item()}
        for batch in rows
        for ids, real, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


def collated(batch: list[dict]) -> dict[str, torch.Tensor]:
    """A batch padded to its longest row."""
    labels = torch.tensor([row["label"] for row in batch])
    return padded([row["input_ids"] for row in batch]) | {"labels": labels}
