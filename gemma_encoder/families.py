"""The families of models that can be adapted, and the few names of their modules that we rely on.

What a decoder of transformers is called inside is said here, and for the modules that are exchanged for ours in
exchange.py and those it lists. A family belongs here when its
attention goes through transformers' attention interface with all keyword arguments; anything else is refused by name,
never half-adapted.
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from gemma_encoder.errors import InputError

# model_type -> name of the attention module inside a layer
DECODERS = {
    "gemma": "self_attn",
    "gemma2": "self_attn",
    "gemma3_text": "self_attn",
    "gpt_neox": "attention",
    "llama": "self_attn",
    "mistral": "self_attn",
    "modernbert-decoder": "attn",
    "qwen2": "self_attn",
    "qwen3": "self_attn",
}
# bidirectional as they are, and given the same pooler, head and dropout: what an adapted decoder is held against
ENCODERS = {"modernbert": "attn"}
FAMILIES = DECODERS | ENCODERS

SOFTCAP = "attn_logit_softcapping"  # of an attention module, and of its configuration: the cap on attention scores


def check_family(config: PreTrainedConfig) -> None:
    """Refuse a decoder that is not of a supported family, by name."""
    if config.model_type not in FAMILIES:
        raise InputError(f"cannot adapt a {config.model_type!r} model; valid: {', '.join(sorted(FAMILIES))}")


def check_implementation(backbone: PreTrainedModel, valid: str) -> None:
    """Refuse a decoder switched to another attention implementation: it would run causally, without a word."""
    found = backbone.config._attn_implementation
    if found != valid:
        raise InputError(f"attention implementation {found!r} does not know our masks; valid: {valid!r}")


def bos_id(config: PreTrainedConfig) -> int | None:
    """What may begin a row, and stands nowhere else in it: BOS, or the [CLS] of a native encoder."""
    return config.cls_token_id if config.model_type in ENCODERS else config.bos_token_id


def head_counts(config: PreTrainedConfig) -> tuple[int, int]:
    """How many heads attention has, of queries and of keys and values."""
    queries = config.num_attention_heads
    return queries, getattr(config, "num_key_value_heads", None) or queries


def layers(backbone: PreTrainedModel) -> list[nn.Module]:
    """Every layer, in order; called with states `(batch, seq, dim)` it returns such states."""
    return list(backbone.layers)


def attention_modules(backbone: PreTrainedModel) -> list[nn.Module]:
    """The attention module of every layer, in order."""
    name = FAMILIES[backbone.config.model_type]
    return [getattr(layer, name) for layer in layers(backbone)]


def ffn_modules(backbone: PreTrainedModel) -> list[nn.Module]:
    """The feed-forward module of every layer, in order."""
    return [ffn_module(layer) for layer in layers(backbone)]


def ffn_module(layer: nn.Module) -> nn.Module:
    """The feed-forward module of a layer, which computes every token by itself."""
    return layer.mlp


def layer_windows(config: PreTrainedConfig) -> list[int | None]:
    """The sliding-window width W of every layer, which reads tokens at distances below W; None for a global layer."""
    width = getattr(config, "sliding_window", None)
    if config.model_type in ENCODERS:
        width += 1  # ModernBERT's own code reads tokens at distances up to its number
    types = getattr(config, "layer_types", None)
    if types is None:
        return [width] * config.num_hidden_layers
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown:
        raise InputError(f"cannot adapt layers of type {sorted(unknown)}; valid: full_attention, sliding_attention")
    return [width if kind == "sliding_attention" else None for kind in types]
