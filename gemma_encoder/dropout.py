"""Where noise goes during fine-tuning: on the attention softmax and on the feed-forward output of every layer.

Source: paper, section 2.3 and Figure 2 (one rate for both, best at 0.1). A decoder of the Gemma family has no dropout
module at all, so we add them as visible submodules: `print(model)` shows where noise acts, and `model.eval()` turns it
off like any other dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gemma_encoder.errors import InputError
from gemma_encoder.families import attention_modules, ffn_modules

LEVELS = 1 << 16  # values of 16 random bits


class Dropout(nn.Dropout):
    """`y = x b / (1 - p)`, `b` 0 with probability p and else 1; on a CPU, of 16 random bits a value.

    torch's own draws every `b` by itself, on one core, which takes longer than the softmax before it. Here p is rounded
    to a multiple of 2^-16, in the noise and in its scale alike. The bits come from torch's generator: seeds repeat, and
    gradient checkpointing replays them.
    """

    def forward(self, states: Tensor) -> Tensor:
        if states.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(states)
        noise = self.noise(states)
        return states if noise is None else states * noise

    def noise(self, states: Tensor) -> Tensor | None:
        """What `states` are multiplied with, `b / (1 - p)`; None where nothing is dropped."""
        if not (self.training and self.p):
            return None
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        drawn = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)
        drawn, noise = drawn[: states.numel()].view(states.shape), torch.empty_like(states)
        torch.ge(drawn, dropped - LEVELS // 2, out=noise)
        return noise.mul_(LEVELS / (LEVELS - dropped))


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
        attention.softmax_dropout = Dropout(attention_dropout)
    for ffn in ffn_modules(backbone):
        if not hasattr(ffn, "output_dropout"):  # a decoder that is adapted twice must not drop twice
            ffn.register_forward_hook(_drop_output)
        ffn.output_dropout = Dropout(ffn_dropout)


def dropout_rates(backbone: PreTrainedModel) -> dict[str, set[float]]:
    """The rates that act in the layers of `backbone`, by the name of the setting."""
    return {
        "attention_dropout": {module.softmax_dropout.p for module in attention_modules(backbone)},
        "ffn_dropout": {module.output_dropout.p for module in ffn_modules(backbone)},
    }
