"""The two sublayers of Gemma 2 as one function each, gradients written out: the same mathematics, less time on a CPU.

The many small operations between two matrix products of a short batch, and autograd's walk back through them, take
longer than their arithmetic. *Written out* means: one `autograd.Function` with a backward pass written by hand, in
place of modules that autograd traces. In the last layer, queries and outputs are computed only for the tokens that the
pooler reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from transformers.activations import GELUTanh
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2MLP
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer as TheirGemma2DecoderLayer
from transformers.models.gemma2.modeling_gemma2 import Gemma2RotaryEmbedding as TheirGemma2RotaryEmbedding

from gemma_encoder.capped import CAPPED, Setting, attended, attended_backward, attention_written_out, note
from gemma_encoder.dropout import Dropout
from gemma_encoder.families import SOFTCAP
from gemma_encoder.linear import Linear, eager_in_float32_on_a_cpu, grad_states, grad_weight, multiplied
from gemma_encoder.norm import Gemma2RMSNorm, normalised, normalised_backward
from gemma_encoder.visibility import Visibility

Rotation = tuple[Tensor, Tensor]
# what stands in a layer, in its attention and in its feed-forward block, where all is as Gemma 2 has it
PARTS = Gemma2Attention, Gemma2MLP, *4 * [Gemma2RMSNorm], *4 * [Linear], Dropout, *3 * [Linear], GELUTanh, Dropout
# whose hooks may be passed over: ours do what is done here as well, transformers' collect what nobody asked for
PASSED_OVER = {"gemma_encoder.dropout", "gemma_encoder.unread", "transformers.utils.output_capturing"}


def rotated(states: Tensor, rotation: Rotation) -> Tensor:
    """`x cos + r(x) sin` with `r((a, b)) = (-b, a)` for the two halves of x.

    states `(tokens, heads, head_dim)`, cos and sin of as many heads or of 1, the first half of sin negative.
    Source: Su et al. 2021, equation 34. Rounded as by transformers: not addcmul.
    """
    cos, sin = rotation
    return (states * cos).add_(states.roll(states.shape[-1] // 2, dims=-1).mul_(sin))


def rotated_backward(gradient: Tensor, rotation: Rotation) -> Tensor:
    """The gradient of the states that were `rotated`: `g cos - r(g sin)`, the halves of sin equal or not."""
    cos, sin = rotation
    return (gradient * cos).add_((gradient * sin).roll(gradient.shape[-1] // 2, dims=-1))


class Angles(tuple):
    """cos and sin of a batch, `(1, tokens, head_dim)`, as the decoder has them and as `rotated` reads them."""

    def by_head(self, heads: int, key_heads: int) -> tuple[Rotation, Rotation]:
        """For queries and for keys: on a CPU, to read one for every head takes longer.

        Made once, by the first layer, for all, which have as many heads: later changes of `self` in place are not read.
        """
        if not hasattr(self, "made"):
            cos, sin = (torch.cat(heads * [each[0, :, None]], dim=1) for each in self)
            sin[..., : sin.shape[-1] // 2].neg_()
            self.made = (cos, sin), (cos[:, :key_heads], sin[:, :key_heads])
        return self.made


class Gemma2RotaryEmbedding(TheirGemma2RotaryEmbedding):
    """The angles of Gemma 2, which remember what is made of them."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        found = super().forward(x, position_ids)
        return Angles(found) if eager_in_float32_on_a_cpu(x) else found


class AttentionSublayer(torch.autograd.Function):
    """`y = x + norm(attended(rot(n Wq^T), rot(n Wk^T), n Wv^T) Wo^T)` with `n = norm(x)`, of x `(tokens, dim)`.

    Of the tokens `read` alone, if they are given: queries and `y` are theirs. rotations: of queries and of keys.
    epsilons: of the norm in front and of the one behind.
    """

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        input_norm: Tensor,
        q_proj: Tensor,
        k_proj: Tensor,
        v_proj: Tensor,
        o_proj: Tensor,
        post_norm: Tensor,
        epsilons: tuple[float, float],
        rotations: tuple[Rotation, Rotation],
        read: Tensor | None,
        setting: Setting,
    ) -> Tensor:
        normed, before = normalised(states, input_norm, epsilons[0])
        chosen = normed if read is None else normed.index_select(0, read)
        query = multiplied(chosen, q_proj).view(len(chosen), setting.visibility.heads, -1)
        key, value = (multiplied(normed, each).view(len(normed), -1, query.shape[-1]) for each in (k_proj, v_proj))
        mixed, saved = attended(*map(rotated, (query, key), rotations), value, setting)
        mixed = mixed.flatten(1)
        result, behind = normalised(multiplied(mixed, o_proj), post_norm, epsilons[1])
        _keep(ctx, before, behind, saved, (normed, chosen, mixed), (q_proj, k_proj, v_proj, o_proj))
        ctx.rotations, ctx.read, ctx.setting, ctx.key_shape = rotations, read, setting, key.shape
        return result.add_(states if read is None else states.index_select(0, read))

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        before, behind, saved, (normed, chosen, mixed), (q_proj, k_proj, v_proj, o_proj) = _kept(ctx)
        grad_product, grad_post_norm = normalised_backward(gradient, behind)
        grad_mixed = grad_states(grad_product, o_proj).view(len(mixed), ctx.setting.visibility.heads, -1)
        *grad_rotated, grad_value = attended_backward(grad_mixed, saved, ctx.key_shape, ctx.setting)
        grad_query, grad_key = map(rotated_backward, grad_rotated, ctx.rotations)
        grad_query, grad_key, grad_value = (each.flatten(1) for each in (grad_query, grad_key, grad_value))
        grad_normed = grad_states(grad_value, v_proj, grad_states(grad_key, k_proj))
        if ctx.read is None:
            grad_normed = grad_states(grad_query, q_proj, grad_normed)
        else:
            grad_normed.index_add_(0, ctx.read, grad_states(grad_query, q_proj))
        grad_input, grad_input_norm = normalised_backward(grad_normed, before)
        if ctx.read is None:
            grad_input.add_(gradient)
        else:
            grad_input.index_add_(0, ctx.read, gradient)
        products = ((grad_query, chosen), (grad_key, normed), (grad_value, normed), (grad_product, mixed))
        return grad_input, *_grad_weights(ctx, grad_input_norm, products, grad_post_norm), None, None, None, None


class FeedForwardSublayer(torch.autograd.Function):
    """`y = x + norm(drop((gelu(n Wg^T) * n Wu^T) Wd^T))` with `n = norm(x)`, of x `(tokens, dim)`."""

    @staticmethod
    def forward(
        ctx,
        states: Tensor,
        input_norm: Tensor,
        gate_proj: Tensor,
        up_proj: Tensor,
        down_proj: Tensor,
        post_norm: Tensor,
        epsilons: tuple[float, float],
        dropout: Dropout,
    ) -> Tensor:
        normed, before = normalised(states, input_norm, epsilons[0])
        gate, up = multiplied(normed, gate_proj), multiplied(normed, up_proj)
        activated = F.gelu(gate, approximate="tanh")
        inner = activated * up
        result = multiplied(inner, down_proj)
        noise = dropout.noise(result)
        result, behind = normalised(result if noise is None else result.mul_(noise), post_norm, epsilons[1])
        _keep(ctx, before, behind, (noise, normed, gate, up, activated, inner), (gate_proj, up_proj, down_proj))
        return result.add_(states)

    @staticmethod
    @once_differentiable  # a second gradient would take what was saved for constants
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        before, behind, (noise, normed, gate, up, activated, inner), (gate_proj, up_proj, down_proj) = _kept(ctx)
        grad_product, grad_post_norm = normalised_backward(gradient, behind)
        if noise is not None:
            grad_product.mul_(noise)
        grad_inner = grad_states(grad_product, down_proj)
        grad_up = grad_inner * activated
        grad_gate = torch.ops.aten.gelu_backward(grad_inner.mul_(up), gate, approximate="tanh")
        grad_normed = grad_states(grad_up, up_proj, grad_states(grad_gate, gate_proj))
        grad_input, grad_input_norm = normalised_backward(grad_normed, before)
        products = ((grad_gate, normed), (grad_up, normed), (grad_product, inner))
        return grad_input.add_(gradient), *_grad_weights(ctx, grad_input_norm, products, grad_post_norm), None, None


def _keep(ctx, *groups: Sequence[Tensor | None]) -> None:
    """Save groups of tensors for the way back."""
    ctx.sizes = [len(group) for group in groups]
    ctx.save_for_backward(*chain(*groups))


def _kept(ctx) -> list[Sequence[Tensor | None]]:
    """What `_keep` saved, read once only, as activations may be recomputed for it."""
    tensors = iter(ctx.saved_tensors)
    return [list(islice(tensors, size)) for size in ctx.sizes]


def _grad_weights(
    ctx, grad_input_norm: Tensor, products: tuple[tuple[Tensor, Tensor], ...], grad_post_norm: Tensor
) -> list[Tensor | None]:
    """The gradients of those weights of a sublayer that are trained: of a norm, of its products, of the other norm."""
    wanted = ctx.needs_input_grad[1 : len(products) + 3]
    found = [grad_input_norm.sum(dim=0) if wanted[0] else None]
    found += [grad_weight(*each) if want else None for each, want in zip(products, wanted[1:-1], strict=True)]
    return [*found, grad_post_norm.sum(dim=0) if wanted[-1] else None]


class Gemma2DecoderLayer(TheirGemma2DecoderLayer):
    """A layer of Gemma 2, its sublayers written out where it pays; of the last, only tokens that are read come out."""

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        visibility: Visibility | None = None,
        **keywords: Any,
    ) -> Tensor:
        # first: for a compiler, which would make a graph for every layer
        if torch.compiler.is_compiling() or visibility is None or id(self) not in visibility.written_out:
            keywords |= {"position_embeddings": position_embeddings, "visibility": visibility}
            states, last = super().forward(hidden_states, **keywords), visibility and visibility.last
            return states[:, last.read] if last is not None and id(self) in last.written_out else states
        attention, ffn = self.self_attn, self.mlp
        note(attention, CAPPED)
        angles = position_embeddings if isinstance(position_embeddings, Angles) else Angles(position_embeddings)
        rotations = angles.by_head(visibility.heads, attention.config.num_key_value_heads)
        read, kind = None, attention.kinds[visibility.adaptation]
        last = visibility.last
        if last is not None and id(self) in last.written_out:
            visibility, read, kind = last, last.read, last.kinds[0]
            (cos, sin), for_keys = rotations
            rotations = (cos[read], sin[read]), for_keys
        scaling = attention.scaling * (not hasattr(attention, "equal_scores"))  # a proof asks
        states = AttentionSublayer.apply(
            hidden_states.flatten(0, 1),  # the gradient of [0] would be filled with zeros first
            self.input_layernorm.weight,
            *(linear.weight for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)),
            self.post_attention_layernorm.weight,
            (self.input_layernorm.eps, self.post_attention_layernorm.eps),
            rotations,
            read,
            Setting(visibility, kind, scaling, getattr(attention, SOFTCAP), attention.softmax_dropout),
        )
        return FeedForwardSublayer.apply(
            states,
            self.pre_feedforward_layernorm.weight,
            *(linear.weight for linear in (ffn.gate_proj, ffn.up_proj, ffn.down_proj)),
            self.post_feedforward_layernorm.weight,
            (self.pre_feedforward_layernorm.eps, self.post_feedforward_layernorm.eps),
            ffn.output_dropout,
        )[None]


def sublayers_written_out(layer: nn.Module, states: Tensor, visibility: Visibility) -> bool:
    """Whether a layer may run `AttentionSublayer` and `FeedForwardSublayer`: where all of it is as Gemma 2 has it.

    Modules of LoRA, or hooks of somebody, run as they stand there. states: any with the dtype and device of the batch.
    """
    if type(layer) is not Gemma2DecoderLayer or layer._compiled_call_impl is not None:
        return False
    attention = layer.self_attn
    if not attention_written_out(states, getattr(attention, SOFTCAP, None), visibility, attention.softmax_dropout):
        return False
    parts = [*layer._modules.values(), *attention._modules.values(), *layer.mlp._modules.values()]
    if tuple(map(type, parts)) != PARTS or not all(map(_is_plain, parts)) or _has_any_global_hook():
        return False
    return all(part.weight.dtype == states.dtype for part in parts if isinstance(part, (Gemma2RMSNorm, Linear)))


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is called as its class says, and multiplies with a plain matrix and nothing else."""
    if "forward" in vars(module) or module._compiled_call_impl is not None:  # accelerate puts its own there
        return False
    for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks):
        if hooks and any(getattr(hook, "__module__", None) not in PASSED_OVER for hook in hooks.values()):
            return False
    return type(module) is not Linear or (type(module.weight) in (nn.Parameter, Tensor) and module.bias is None)
