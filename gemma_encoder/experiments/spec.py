"""`RunSpec`: everything a person can set that changes the result of one fine-tuning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import get_type_hints

from gemma_encoder.dropout import check_rate
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.losses import RANKING_LOSSES
from gemma_encoder.masks import parse_attention
from gemma_encoder.pooling import parse_pooling
from gemma_encoder.tasks import get_task, task_names

SEEDS = 2**32  # what numpy takes
EVALUATE_ON = ("validation", "holdout")
PADDINGS = ("none", "left", "right")
PRECISIONS = ("float32", "bfloat16")
LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "micro_batch": 0,
    "max_length": 4,
    "list_size": 2,
    "candidates": 0,
    "train_examples": 0,
    "seed": 0,
    "lora_rank": 0,
}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One fine-tuning. Defaults are the paper's where it names them (attention, pooling, dropout); see profiles/."""

    task: str
    model: str = "tiny"  # "tiny", a checkpoint folder, or a hub name
    data: str = "builtin"  # "builtin", a data folder, or "hub"
    attention: str = "bidirectional"
    pooling: str = "mean"
    attention_dropout: float = 0.1  # on the attention softmax
    ffn_dropout: float = 0.1  # on the feed-forward output
    padding: str = "none"  # "none": unpadded; "left" or "right": every batch filled up to its longest row
    seed: int = 0  # head initialisation, order of examples, dropout
    train_examples: int = 0  # a fixed random subset of this many; 0 takes all
    epochs: int = 3
    batch_size: int = 32  # examples per update
    # examples in memory at a time, a divisor of batch_size; 0: the whole batch. In the last, smaller update of an epoch
    # every micro-batch has the same weight, so examples of the smallest one weigh more
    micro_batch: int = 0
    learning_rate: float = 5e-4  # peak, after warm-up; decays linearly to 0
    warmup: float = 0.1  # share of all updates
    weight_decay: float = 0.01
    precision: str = "float32"  # "bfloat16": the passes; weights, optimiser and loss stay float32
    gradient_checkpointing: bool = False  # computes activations twice instead of keeping them
    compiled: bool = False  # layers by torch.compile: other rounding; a GPU is faster after a minute, a CPU is not
    lora_rank: int = 0  # 0 trains all weights
    lora_alpha: float = 0.0  # with LoRA: the update is scaled by lora_alpha / lora_rank
    max_length: int = 512  # tokens
    truncate: bool = False  # cut longer inputs, and count them, instead of refusing them
    list_size: int = 8  # ranking: passages in a training list, one of them relevant
    candidates: int = 0  # ranking: passages of a query that are scored, the first ones of BM25; 0 takes all
    ranking_loss: str = "listwise_softmax"  # over lists of candidates; or "pointwise_logistic"
    evaluate_on: str = "validation"  # "holdout": a tenth of train, for choosing settings

    def __post_init__(self) -> None:
        """Check names, types and ranges; the first fault is an InputError."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            fits = type(value) is kind or (kind is float and type(value) is int)
            if not fits:
                raise InputError(f"{name} {value!r} is of type {type(value).__name__}; valid: {kind.__name__}")
            if kind is float:  # 0 and 0.0 are one run
                object.__setattr__(self, name, _as_float(name, value))
        check_choice("task", self.task, task_names())
        parse_attention(self.attention)
        parse_pooling(self.pooling)
        check_choice("evaluate_on", self.evaluate_on, EVALUATE_ON)
        check_choice("ranking_loss", self.ranking_loss, RANKING_LOSSES)
        check_choice("padding", self.padding, PADDINGS)
        check_choice("precision", self.precision, PRECISIONS)
        check_rate("attention_dropout", self.attention_dropout)
        check_rate("ffn_dropout", self.ffn_dropout)
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)!r} is too small; valid: at least {least}")
        if self.seed >= SEEDS:
            raise InputError(f"seed {self.seed} is too large; valid: below {SEEDS}")
        for name in ("learning_rate", "weight_decay", "lora_alpha"):
            if getattr(self, name) == math.inf:
                raise InputError(f"{name} inf is not valid; valid: a finite number")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate {self.learning_rate!r} is not valid; valid: a number above 0")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup {self.warmup!r} is not valid; valid: a share of the updates, in [0, 1)")
        if not self.weight_decay >= 0:
            raise InputError(f"weight_decay {self.weight_decay!r} is not valid; valid: a number >= 0")
        self._check_together()

    def _check_together(self) -> None:
        """Settings that are each valid but do not fit each other."""
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise InputError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        if self.candidates and get_task(self.task).kind != "ranking":
            raise InputError(f"candidates {self.candidates} with task {self.task!r}; valid: with a ranking task, or 0")
        if self.lora_alpha and not self.lora_rank:
            raise InputError(f"lora_alpha {self.lora_alpha!r} with full fine-tuning; valid: with lora_rank, or neither")
        if self.lora_rank and not self.lora_alpha > 0:
            raise InputError(f"lora_rank {self.lora_rank} with lora_alpha {self.lora_alpha!r}; valid: a number above 0")

    def settings(self) -> dict[str, object]:
        """The spec without where model and data lie: their content, not their place, makes a result."""
        return {name: value for name, value in asdict(self).items() if name not in ("model", "data")}


def _as_float(name: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is an integer that is too large; valid: a finite number") from None


def spec_fields() -> dict[str, str]:
    """The names of all settings, each with its type as text, such as "float"."""
    return {field.name: field.type for field in fields(RunSpec)}
