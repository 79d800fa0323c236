"""Where noise goes during fine-tuning: on the attention softmax and on the feed-forward output of every layer.

Source: paper, section 2.3 and Figure 2 (one rate for both, best at 0.1). A decoder of the Gemma family has no dropout
module at all, so we add them as visible submodules: `print(model)` shows where noise acts, and `model.eval()` turns it
off like any other dropout.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from gemma_encoder.errors import InputError
from gemma_encoder.families import attention_modules, ffn_modules


def check_rate(name: str, rate: float) -> None:
    """A dropout rate is a number in [0, 1)."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise InputError(f"{name} {rate!r} is not valid; valid: a number in [0, 1)")


def _drop_output(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    return module.output_dropout(output)


def add_dropout(backbone: PreTrainedModel, attention_dropout: float, ffn_dropout: float) -> None:
    """Give every layer of `backbone` its two dropouts, in place.

    `softmax_dropout` is applied to the attention weights `(batch, head, q, kv)` by `gemma_encoder.attention`;
    `output_dropout` to the feed-forward output `(batch, seq, dim)`, before any norm that follows it and before the
    residual sum. Any other dropout that a family brings along is switched off: these two are the only noise.
    """
    check_rate("attention_dropout", attention_dropout)
    check_rate("ffn_dropout", ffn_dropout)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for attention in attention_modules(backbone):
        attention.softmax_dropout = nn.Dropout(attention_dropout)
    for ffn in ffn_modules(backbone):
        if not hasattr(ffn, "output_dropout"):  # a decoder that is adapted twice must not drop twice
            ffn.register_forward_hook(_drop_output)
        ffn.output_dropout = nn.Dropout(ffn_dropout)
