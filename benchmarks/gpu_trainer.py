"""The same updates by transformers' Trainer, as the kit's runs and `run_glue.py` make them."""

from __future__ import annotations

from itertools import pairwise

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from benchmarks.trainers import arguments, clocked_training
from gemma_encoder.rows import padded


def by_trainer(model: PreTrainedModel, rows: list[dict[str, torch.Tensor]], device: torch.device) -> list[float]:
    """Seconds from update to update in the last of three epochs: what is compiled compiles in the first two.

    Everything that Trainer does is in them: collating, clipping the gradient, logging every loss.
    """
    logging.set_verbosity_error()
    settings = arguments(
        TrainingArguments,
        len(rows[0]["labels"]),
        num_train_epochs=3,
        learning_rate=1e-6,
        train_sampling_strategy="sequential",  # the batches of the plain loop
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
    )
    clock = clocked_training(Trainer(model, settings, train_dataset=features(rows), data_collator=collated))
    return [end - start for start, end in pairwise(clock.moments)][-len(rows) :]


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
