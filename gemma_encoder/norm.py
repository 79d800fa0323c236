"""The decoder's own RMS norm, on a CPU with its gradient written out: same values, a third of the passes backwards.

Gemma has four of these norms in every layer, each a chain of small operations, and autograd walks back along every one
of them. Norms of other families, which round otherwise, stay as they are. On a GPU torch has a kernel for the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm as TheirGemmaRMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm as TheirGemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm as TheirGemma3RMSNorm

Saved = tuple[Tensor, Tensor, Tensor]  # n, s and 1 + w of the formula


def normalised(states: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Saved]:
    """`y = (1 + w) n` with `n = x s`, `s = 1 / sqrt(mean(x^2) + eps)`, x `(tokens, dim)`, and what its gradient needs.

    Source: Zhang and Sennrich 2019, equation 4; Gemma adds 1 to the weight.
    """
    scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + eps)
    normed, factor = states * scale, 1.0 + weight
    return normed * factor, (normed, scale, factor)


def normalised_backward(gradient: Tensor, saved: Saved) -> tuple[Tensor, Tensor]:
    """`dx = s (u - n mean(n u))` with `u = (1 + w) dy`, and `n dy`, whose sum over all tokens is `dw`."""
    normed, scale, factor = saved
    inner = gradient * normed
    along = (inner @ factor)[:, None]  # times the dimension
    return (gradient * factor).addcmul_(normed, along, value=-1 / normed.shape[1]).mul_(scale), inner


class RMSNorm(torch.autograd.Function):
    """`normalised` in float32, of x of shape `(..., dim)` and any precision."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        output, saved = normalised(states.float().flatten(0, -2), weight.float(), eps)
        ctx.save_for_backward(*saved)
        ctx.types, ctx.shape = (states.dtype, weight.dtype), states.shape
        return output.type_as(states).view(states.shape)

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        saved, (state_type, weight_type) = ctx.saved_tensors, ctx.types
        states, inner = normalised_backward(gradient.float().reshape_as(saved[0]), saved)
        weight = inner.sum(dim=0).to(weight_type) if ctx.needs_input_grad[1] else None
        return states.to(state_type).view(ctx.shape), weight, None


def fused(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`RMSNorm` by torch's own function: one kernel each way on a GPU, a chain of small operations on a CPU."""
    factor = 1.0 + weight.float()
    return F.rms_norm(states.float(), factor.shape, factor, eps).type_as(states)


class _WrittenOut:
    def forward(self, states: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a compiler joins the operations by itself
            return super().forward(states)
        if states.is_cuda:
            return fused(states, self.weight, self.eps)
        return RMSNorm.apply(states, self.weight, self.eps)


class GemmaRMSNorm(_WrittenOut, TheirGemmaRMSNorm):
    """The norm of Gemma, its gradient written out."""


class Gemma2RMSNorm(_WrittenOut, TheirGemma2RMSNorm):
    """The norm of Gemma 2, its gradient written out."""


class Gemma3RMSNorm(_WrittenOut, TheirGemma3RMSNorm):
    """The norm of Gemma 3, its gradient written out."""
