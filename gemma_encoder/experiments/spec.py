"""`RunSpec`: everything a person can set that changes the result of one fine-tuning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import get_type_hints

from gemma_encoder.dropout import check_rate
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.masks import layer_attention
from gemma_encoder.pooling import parse_pooling
from gemma_encoder.tasks import task_names

EVALUATE_ON = ("validation", "holdout")
PADDINGS = ("none", "left", "right")
MANY_LAYERS = 1000  # how many the decoder really has is known, and checked, when it is loaded


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
    learning_rate: float = 5e-4  # peak, after warm-up; decays linearly to 0
    warmup: float = 0.1  # share of all updates
    weight_decay: float = 0.01
    max_length: int = 512  # tokens
    truncate: bool = False  # cut longer inputs, and count them, instead of refusing them
    evaluate_on: str = "validation"  # "holdout": a tenth of train, for choosing settings

    def __post_init__(self) -> None:
        """Check names, types and ranges; the first fault is an InputError."""
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            fits = type(value) is kind or (kind is float and type(value) is int)
            if not fits:
                raise InputError(f"{name} {value!r} is a {type(value).__name__}; valid: {kind.__name__}")
        check_choice("task", self.task, task_names())
        layer_attention(self.attention, MANY_LAYERS)
        parse_pooling(self.pooling)
        check_choice("evaluate_on", self.evaluate_on, EVALUATE_ON)
        check_choice("padding", self.padding, PADDINGS)
        check_rate("attention_dropout", self.attention_dropout)
        check_rate("ffn_dropout", self.ffn_dropout)
        for name, least in {"epochs": 1, "batch_size": 1, "max_length": 4, "train_examples": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)!r} is too small; valid: at least {least}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate {self.learning_rate!r} is not valid; valid: a number above 0")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup {self.warmup!r} is not valid; valid: a share of the updates, in [0, 1)")
        if not self.weight_decay >= 0:
            raise InputError(f"weight_decay {self.weight_decay!r} is not valid; valid: a number >= 0")

    def settings(self) -> dict[str, object]:
        """The spec without where model and data lie: their content, not their place, makes a result."""
        return {name: value for name, value in asdict(self).items() if name not in ("model", "data")}


def spec_fields() -> list[str]:
    """The names of all settings."""
    return [field.name for field in fields(RunSpec)]
