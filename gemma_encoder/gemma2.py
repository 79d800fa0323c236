"""The modules of Gemma 2: the same weights and mathematics, less time on a CPU where a batch travels packed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention as TheirGemma2Attention
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer as TheirGemma2DecoderLayer

from gemma_encoder.capped import CAPPED, CappedAttention, note, written_out
from gemma_encoder.visibility import Visibility


class Gemma2Attention(TheirGemma2Attention):
    """The attention of Gemma 2, written out where it pays."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: None = None,
        visibility: Visibility | None = None,
        **keywords: object,
    ) -> tuple[Tensor, Tensor | None]:
        softcap, last = self.attn_logit_softcapping, last_of(self, visibility)
        if last is None and not written_out(hidden_states, softcap, visibility, self.softmax_dropout):
            keywords |= {"visibility": visibility}
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **keywords)
        note(self, CAPPED)
        cos, sin = (each.transpose(0, 1) for each in position_embeddings)
        sin = sin.clone()
        sin[..., : self.head_dim // 2].neg_()
        asking, rotations = hidden_states, ((cos, sin), (cos, sin))
        kind = self.kinds[visibility.adaptation]
        if last is not None:
            asking = hidden_states.index_select(1, last.read)
            rotations, kind = ((cos[last.read], sin[last.read]), (cos, sin)), last.kinds[0]
        projected = self.q_proj(asking), self.k_proj(hidden_states), self.v_proj(hidden_states)
        states = (each.view(each.shape[1], -1, self.head_dim) for each in projected)  # [0] has a dear gradient
        scaling = self.scaling * (not hasattr(self, "equal_scores"))
        settings = last or visibility, kind, scaling, softcap, self.softmax_dropout
        return self.o_proj(CappedAttention.apply(*states, rotations, *settings).view(1, asking.shape[1], -1)), None


class Gemma2DecoderLayer(TheirGemma2DecoderLayer):
    """A layer of Gemma 2; in the last one only tokens that are read go on behind the attention, `(1, read, dim)`."""

    def forward(self, hidden_states: Tensor, **keywords: Any) -> Tensor:
        last = last_of(self.self_attn, keywords.get("visibility"))
        if last is None:
            return super().forward(hidden_states, **keywords)
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **keywords)
        states = hidden_states.index_select(1, last.read) + self.post_attention_layernorm(attended)
        return states + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(states)))


def go_on_alone(layer: nn.Module) -> bool:
    """Whether only some tokens go on behind the attention of a layer: in the last one, if both modules are ours."""
    return type(layer) is Gemma2DecoderLayer and type(layer.self_attn) is Gemma2Attention and layer.self_attn.is_last


def last_of(attention: Gemma2Attention, visibility: Visibility | None) -> Visibility | None:
    """What only tokens that are read see, in the last layer."""
    return visibility.last if visibility is not None and attention.is_last else None
