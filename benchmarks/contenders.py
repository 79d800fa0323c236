"""The contenders of fine-tuning: the same weights, examples, optimiser and precision, and Trainer for all.

All read the last token, as transformers' classifier does; the kit's own default, the mean of all, has a row of its own.
What differs, and cannot be made the same: our head is an MLP, theirs one linear layer on the same token; and the
CrossEncoder tokenises in its collator, two texts a row, so that it may read one BOS more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import CrossEntropyLoss
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from benchmarks.trainers import arguments, clocked_training
from benchmarks.workload import ATTENTION_DROPOUT, Work, tokenizer, upstream
from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.tasks import collate

KIT, DYNAMIC, GROUPED = "kit", "Trainer, dynamic padding", "Trainer, grouped by length"
FULL, CROSS, KIT_GROUPED = "Trainer, padded to max_length", "sentence-transformers CrossEncoder", "kit, grouped"
KIT_PADDED, KIT_MEAN = "kit, padded", "kit, mean pooling"
OTHERS = "SST-2, others"  # the case of those that take turns of their own
NOTES = {
    FULL: "run_glue's default",
    GROUPED: "batches of like lengths: other examples share one",
    KIT_GROUPED: "batches of like lengths: other examples share one",
    KIT_MEAN: "the kit's default; the others read the last token",
    CROSS: "tokenises in its collator; its padding is dynamic",
}


def kit_model(shape: str, unpadded: bool = True, pooling: str = "last") -> PreTrainedModel:
    """Our classifier on the weights of `upstream(shape)`, its window as in the decoder, feed-forward dropout off."""
    decoder = upstream(shape).base_model
    decoder.config.sliding_window += 1
    settings = {"attention_dropout": ATTENTION_DROPOUT, "ffn_dropout": 0.0, "pooling": pooling, "num_labels": 2}
    return GemmaEncoderForSequenceClassification.from_decoder(decoder, unpadded=unpadded, **settings)


def fixed_width(features: list[dict], width: int) -> dict[str, Tensor]:
    """A batch padded to `width`, as run_glue does by default."""
    batch = collate(features, tokenizer().pad_token_id)
    missing = width - batch["input_ids"].shape[1]
    padded = {name: torch.nn.functional.pad(batch[name], (0, missing)) for name in ("input_ids", "attention_mask")}
    return batch | padded


def trainer_of(name: str, model: PreTrainedModel, work: Work, batch_size: int) -> Trainer:
    """A Trainer of contender `name` over the rows of `work`, whose order is that of batches of like lengths."""
    rows = [{"input_ids": ids, "labels": label} for ids, label in zip(work.ids, work.labels, strict=True)]
    grouped = {"train_sampling_strategy": "sequential"} if name in (GROUPED, KIT_GROUPED) else {}
    padded = partial(collate, pad_id=tokenizer().pad_token_id)
    collator = partial(fixed_width, width=work.max_length) if name == FULL else padded
    settings = arguments(TrainingArguments, batch_size, **grouped)
    return Trainer(model, settings, train_dataset=rows, data_collator=collator)


def cross_encoder(model: PreTrainedModel, max_length: int) -> CrossEncoder:
    """sentence-transformers' CrossEncoder on transformers' own classifier, bidirectional like the others."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        loaded = CrossEncoder(
            folder, max_length=max_length, device="cpu", model_kwargs={"attn_implementation": "eager"}
        )
    if getattr(loaded[0].auto_model.config, "is_causal", True):
        raise RuntimeError("the CrossEncoder reads causally: the comparison would not be fair")
    return loaded


def halves(texts: list[str]) -> list[tuple[str, str]]:
    """Each text as the two texts of a pair, which together hold the same words."""
    split = [text.split() for text in texts]
    return [(" ".join(row[: len(row) // 2]), " ".join(row[len(row) // 2 :])) for row in split]


def cross_trainer(model: CrossEncoder, work: Work, batch_size: int) -> Trainer:
    """sentence-transformers' own trainer over the rows of `work`."""
    first, second = zip(*halves(work.texts), strict=True)
    rows = Dataset.from_dict({"first": list(first), "second": list(second), "label": work.labels})
    settings = arguments(CrossEncoderTrainingArguments, batch_size)
    return CrossEncoderTrainer(model, settings, train_dataset=rows, loss=CrossEntropyLoss(model))


def contender(name: str, shape: str, work: Work, batch_size: int) -> Callable[[], Trainer]:
    """A function that makes a fresh Trainer of contender `name`, around a model that is made once."""
    if name == CROSS:
        model = cross_encoder(upstream(shape), work.max_length)
        return partial(cross_trainer, model, work, batch_size)
    if name.startswith(KIT):
        model = kit_model(shape, unpadded=name != KIT_PADDED, pooling="mean" if name == KIT_MEAN else "last")
    else:
        model = upstream(shape)
        model.config.pad_token_id = tokenizer().pad_token_id
    return partial(trainer_of, name, model, work, batch_size)


def one_epoch(make: Callable[[], Trainer]) -> float:
    """Seconds of one epoch."""
    logging.set_verbosity_error()
    return clocked_training(make()).seconds


@torch.no_grad()
def disagreement(shape: str, work: Work) -> float:
    """Largest difference between the two stacks' states on real tokens, dropout off, relative to the largest state."""
    theirs, ours = upstream(shape).base_model.eval(), kit_model(shape).encoder.eval()
    rows = [{"input_ids": row} for row in work.ids]
    batch = collate(rows, tokenizer().pad_token_id)
    real = batch["attention_mask"].bool()
    expected = theirs(**batch, use_cache=False).last_hidden_state[real]
    found = ours(**batch).last_hidden_state[real]
    return ((found - expected).abs().max() / expected.abs().max()).item()


def stored_beside(folder: Path, model: PreTrainedModel) -> Path:
    """`model` and the tokenizer in `folder`, for libraries that load by name."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
