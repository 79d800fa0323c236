"""The settings of an adapted decoder, each checked by name and value."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from gemma_encoder.dropout import check_rate
from gemma_encoder.errors import InputError
from gemma_encoder.families import layer_windows
from gemma_encoder.losses import ranking_loss
from gemma_encoder.masks import Mask, layer_masks
from gemma_encoder.pooling import parse_pooling

COUNTS = ("pooling_heads", "pooling_latents")
SWITCHES = ("pooling_projections", "unpadded")
# what a decoder's configuration may say anew, with the weights as they are: what every model of transformers is told of
# its outputs, labels and origin, the size of the vocabulary, which may grow, and every ..._token_id
FREE = {*PreTrainedConfig().to_dict(), "vocab_size", "use_cache"} - {"model_type"}


class GemmaEncoderConfig(PreTrainedConfig):
    """The decoder's own configuration and how it is adapted.

    attention: "bidirectional", "causal", or a plan such as "bidirectional-last-4"; see masks.layer_attention.
    local_layers: "keep" the decoder's sliding windows, symmetric where attention is bidirectional, or "open" them.
    pooling: "mean", "first", "last", "first-K", "last-K", "query-probe", "kv-probe".
    pooling_heads, pooling_latents, pooling_projections: for the two probes; see pooling.
    attention_dropout, ffn_dropout: rates in [0, 1) on attention softmax and feed-forward output.
    unpadded: run without padding (same result, less work); False keeps the slots of a batch as it came.
    ranking_loss: "listwise_softmax" or "pointwise_logistic", for GemmaEncoderForRanking; see losses.
    text_columns: names put before the texts of a row, as in the task it was fine-tuned on; none: texts as they are.
    """

    model_type = "gemma_encoder"
    sub_configs_defaults: ClassVar = {"decoder": SubConfigSpec(config_class=AutoConfig, model_type="gemma2")}

    decoder: PreTrainedConfig | dict | None = None
    attention: str = "bidirectional"
    local_layers: str = "keep"
    pooling: str = "mean"
    pooling_heads: int = 4
    pooling_latents: int = 4
    pooling_projections: bool = True
    attention_dropout: float = 0.1
    ffn_dropout: float = 0.1
    unpadded: bool = True
    ranking_loss: str = "listwise_softmax"
    text_columns: list[str] | tuple[str, ...] = ()

    def __post_init__(self, **kwargs) -> None:
        """Validate all settings; a wrong one is an InputError naming the valid ones."""
        _check_count("num_labels", kwargs.get("num_labels", 1))
        if not isinstance(self.decoder, (PreTrainedConfig, dict, type(None))):
            raise InputError(f"decoder {self.decoder!r} is not valid; valid: the configuration of a decoder")
        if self.id2label is not None:
            _check_names(self.id2label, kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        if self.problem_type is None:
            self.problem_type = self._problem  # without it a pipeline puts a sigmoid on a number
        self.settle()

    @property
    def _problem(self) -> str:
        return "regression" if self.num_labels == 1 else "single_label_classification"

    def settle(self) -> None:
        """Validate the settings as they are now, and number the labels by name.

        When a model is built as well: `from_pretrained` of transformers changes the settings it is given afterwards.
        """
        for name in COUNTS:
            _check_count(name, getattr(self, name))
        for name in SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} {getattr(self, name)!r} is not valid; valid: True or False")
        _check_names(self.id2label)
        self.id2label = {int(key): name for key, name in self.id2label.items()}
        self.label2id = {name: index for index, name in self.id2label.items()}
        if self.problem_type != self._problem:
            raise InputError(
                f"problem_type {self.problem_type!r} does not fit num_labels {self.num_labels}; "
                f"valid: {self._problem!r}"
            )
        planned_masks(self)
        parse_pooling(self.pooling)
        check_rate("attention_dropout", self.attention_dropout)
        check_rate("ffn_dropout", self.ffn_dropout)
        ranking_loss(self.ranking_loss)
        columns = self.text_columns  # of a string its letters would be taken for names
        if not isinstance(columns, (list, tuple)) or not all(isinstance(name, str) for name in columns):
            raise InputError(f"text_columns {columns!r} is not valid; valid: a list of names")


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise InputError(f"{name} {value!r} is not valid; valid: an integer >= 1")


def _check_names(id2label: object, num_labels: int | None = None) -> None:
    """The names of labels are those of 0, 1, ...; a checkpoint has the numbers as text."""
    count = num_labels or len(id2label) if isinstance(id2label, dict) else None
    if count is None or {str(key) for key in id2label} != {str(index) for index in range(count)}:
        labels = f"every label from 0 to {count - 1}" if count else "every label from 0"
        raise InputError(f"id2label {id2label!r} is not valid; valid: a dictionary with a name for {labels}")


def planned_masks(config: GemmaEncoderConfig) -> list[Mask]:
    """The mask of each layer that the settings ask for."""
    return layer_masks(config.attention, layer_windows(config.decoder), config.local_layers)


def decoder_settings(decoder: PreTrainedConfig | dict) -> dict[str, Any]:
    """What of a decoder's configuration, or of a part of one, makes another model of it; by name as of ours."""
    settings = decoder if isinstance(decoder, dict) else decoder.to_dict()
    return {f"decoder.{name}": settings[name] for name in settings.keys() - FREE if not name.endswith("_token_id")}


ADAPTATION_SETTINGS = (
    *(set(GemmaEncoderConfig.__annotations__) - {"decoder", "sub_configs_defaults"}),
    "num_labels",
    "id2label",
)
AutoConfig.register(GemmaEncoderConfig.model_type, GemmaEncoderConfig)
