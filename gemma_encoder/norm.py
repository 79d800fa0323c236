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


class RMSNorm(torch.autograd.Function):
    """`y = (1 + w) n` with `n = x s`, `s = 1 / sqrt(mean(x^2) + eps)`, in float32; x and y of shape `(..., dim)`.

    With `u = (1 + w) dy`: `dx = s (u - n mean(n u))` and `dw = sum(n dy)` over all but the last dimension.
    Source: Zhang and Sennrich 2019, equation 4; Gemma adds 1 to the weight.
    """

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = states.float().flatten(0, -2)
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
        normed, factor = exact * scale, 1.0 + weight.float()
        ctx.save_for_backward(normed, scale, factor)
        ctx.types, ctx.shape = (states.dtype, weight.dtype), states.shape
        return (normed * factor).type_as(states).view(states.shape)

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, factor = ctx.saved_tensors
        of_states, of_weight = ctx.types
        gradient, dim = gradient.float().reshape_as(normed), normed.shape[1]
        inner = gradient * normed
        along = (inner @ factor)[:, None]  # times the dimension
        states = (gradient * factor).addcmul_(normed, along, value=-1 / dim).mul_(scale)
        weight = inner.sum(dim=0).to(of_weight) if ctx.needs_input_grad[1] else None
        return states.to(of_states).view(ctx.shape), weight, None


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
