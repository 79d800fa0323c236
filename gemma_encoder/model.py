"""A decoder adapted as an encoder: bidirectional attention, a pooler, dropout. Heads for tasks are in `heads`.

    encoder = GemmaEncoder.from_decoder("google/gemma-2-2b", pooling="mean")

The model is a PreTrainedModel: save_pretrained, from_pretrained, Trainer and the Auto classes work as usual.
Source: paper, section 2 and Figure 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from gemma_encoder.attention import IMPLEMENTATION, choose_biases, new_adaptation
from gemma_encoder.built import built_in, check_as_built, check_depth
from gemma_encoder.configuration import ADAPTATION_SETTINGS, GemmaEncoderConfig, planned_masks
from gemma_encoder.dropout import add_dropout
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.exchange import exchange
from gemma_encoder.families import check_family, check_implementation, head_counts, layers
from gemma_encoder.gemma2 import sublayers_written_out
from gemma_encoder.inputs import check_bos, check_lengths, real_slots
from gemma_encoder.linear import onednn_pays, spare
from gemma_encoder.loading import load_adapted, load_decoder
from gemma_encoder.pooling import get_pooler, slots_read
from gemma_encoder.unread import skip_unread, skips_unread
from gemma_encoder.visibility import Visibility, look, look_from

INPUTS = ("input_ids", "attention_mask", "output_hidden_states", "output_attentions")


class GemmaEncoderPreTrainedModel(PreTrainedModel):
    """What the encoder and its heads share: loading, saving, initialisation."""

    config_class = GemmaEncoderConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    left_over: ClassVar[tuple[str, ...]] = ()  # beginnings of weight names that a checkpoint may hold for nothing
    _keep_in_fp32_modules_strict = ("head",)  # scores are computed in float32 from the pooled vector on
    accepts_loss_kwargs = False  # our losses are means over examples; Trainer then scales accumulation correctly

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_decoder(
        cls, decoder: str | Path | PreTrainedModel, *, dtype: torch.dtype = torch.float32, **settings
    ) -> Self:
        """Adapt a causal decoder and measure what its tokens see; it comes in eval mode, as from `from_pretrained`.

        decoder: a checkpoint folder or hub name (safetensors; no remote code), or a loaded model of a supported
            family, whose modules are taken over, not copied.
        dtype: of all weights but those of a head, which has float32 at least; those of a loaded model are converted
            too, in place.
        settings: fields of GemmaEncoderConfig, and `num_labels` (1 means regression).
        Raises InputError for an unsupported family, an unknown setting, or a checkpoint without all its weights, and
        VisibilityError for a mask that is not the planned one.
        """
        for name in settings:
            check_choice("setting", name, ADAPTATION_SETTINGS)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype {dtype!r} is not valid; valid: a floating-point type such as torch.bfloat16")
        backbone = load_decoder(decoder, dtype)
        config = GemmaEncoderConfig(decoder=backbone.config, **settings)
        model = cls(config, backbone=backbone)
        cast(model, dtype)
        model.eval()
        _probe(model)
        return model

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, output_loading_info: bool = False, probe: bool = True, **kwargs
    ) -> Self:
        """Load an adapted checkpoint and measure what its tokens see.

        Missing or unexpected weights are an InputError, never a silent new start; a mask that is not the planned one
        is a VisibilityError. Without `probe` nothing is measured: for `proofs.verify`, which measures more.
        """
        model, info = load_adapted(super().from_pretrained, name, cls.left_over, **kwargs)
        if probe:
            _probe(model)
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args, **kwargs) -> None:
        """As of every PreTrainedModel; a configuration that was changed after the model was built is an InputError."""
        check_as_built(self, encoder_of(self))
        super().save_pretrained(*args, **kwargs)


def _probe(model: GemmaEncoderPreTrainedModel) -> None:
    """Measure, in few passes, that every token sees what it should."""
    from gemma_encoder.verify import LOAD_TOKENS, check_visibility  # which needs this module

    check_visibility(model, tokens=LOAD_TOKENS)


def cast(model: GemmaEncoderPreTrainedModel, dtype: torch.dtype) -> None:
    """Convert the weights of `model` to `dtype`, those of a head to float32 at least, in place."""
    for name, parameter in model.named_parameters():  # not `.to`, which would round the rotary frequencies too
        in_head = "head" in name.split(".")
        parameter.data = parameter.data.to(torch.promote_types(dtype, torch.float32) if in_head else dtype)


def refuse(others: dict[str, object], valid: tuple[str, ...]) -> None:
    """Inputs that a model does not know are an InputError: PEFT passes some for a task type, and loses the head."""
    if others:
        raise InputError(
            f"inputs {', '.join(sorted(others))} are unknown; valid: {', '.join(valid)}; "
            "for LoRA use gemma_encoder.lora.add_lora, which keeps pooler and head, in place of a task type of PEFT"
        )


class GemmaEncoder(GemmaEncoderPreTrainedModel):
    """Decoder layers under an encoder's mask, and a pooler.

    Returns `last_hidden_state (batch, seq, dim)`, zero in slots without a token, and `pooler_output (batch, dim)`.
    """

    left_over: ClassVar = ("head.",)  # a classifier's checkpoint holds its encoder

    def __init__(self, config: GemmaEncoderConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        config.settle()
        check_family(config.decoder)
        config.decoder.use_cache = False
        self.backbone = backbone or AutoModel.from_config(config.decoder, attn_implementation=IMPLEMENTATION)
        self.masks = planned_masks(config)
        check_depth(self.backbone, self.masks)
        self.backbone.set_attn_implementation(IMPLEMENTATION)
        add_dropout(self.backbone, config.attention_dropout, config.ffn_dropout)
        skip_unread(self.backbone)
        exchange(self.backbone)
        self.adaptation = new_adaptation(self.backbone)
        sizes = config.pooling_heads, config.pooling_latents, config.pooling_projections
        self.pool = get_pooler(config.pooling, config.decoder.hidden_size, *sizes)
        self.built = built_in(config)
        for module in () if backbone is None else backbone.modules():
            module._is_hf_initialized = True  # or transformers draws anew what it has neither made nor loaded itself
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embedding."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put `value` in place of the decoder's token embedding, as `resize_token_embeddings` does."""
        self.backbone.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        only_pooled: bool = False,
        **others: object,
    ) -> BaseModelOutputWithPooling:
        """Encode `input_ids (batch, seq)`; `attention_mask (batch, seq)` is 1 where a slot holds a token, else 0.

        With `output_attentions`, `attentions[l]` has shape `(batch, head, width, width)` over the tokens of each row
        in order, whatever the padding, and 0 beyond a row's last token; width is the longest row.
        States of all layers and attentions that are neither asked for nor refused come as the configuration says.
        They are copies for reading: no gradient of the loss reaches them.
        With `only_pooled`, what no pooled vector needs is not computed, and `last_hidden_state` may be None.
        Any other input is an InputError.
        """
        refuse(others, INPUTS)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        real = self._real(input_ids, attention_mask)
        check_bos(input_ids, real, self.config.decoder)
        visibility = self.look(real, output_attentions, fill=True)
        if only_pooled and not (output_hidden_states or self._compiles):
            visibility = self._reading(visibility, real)
        output = self._pass(input_ids, real, visibility, output_hidden_states, output_attentions)
        attentions = output.attentions and tuple(self._to_tokens(weights, real) for weights in output.attentions)
        if visibility.read is not None:
            read = output.last_hidden_state.flatten(0, 1)
            read = read[visibility.read] if visibility.last is None else read[: len(visibility.read)]
            read = read.unflatten(0, (len(real), -1))
            pooled = read.mean(dim=1, dtype=torch.promote_types(read.dtype, torch.float32)).to(read.dtype)
            return BaseModelOutputWithPooling(None, pooled, None, attentions)
        states = self._to_slots(output.last_hidden_state, real)
        hidden = output.hidden_states and tuple(self._to_slots(state, real) for state in output.hidden_states)
        return BaseModelOutputWithPooling(states, self.pool(states, real), hidden, attentions)

    def layer_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """The states `(batch, seq, dim)` behind every layer, of rows of any length: no pooler reads them."""
        real = self._real(input_ids, attention_mask)
        visibility = self.look(real)
        found: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple, keywords: dict, states: Tensor) -> None:
            if keywords["visibility"].position_ids is visibility.position_ids:  # not the batch of another thread
                found.append(states)

        # those of transformers stay on the model, which then cannot be pickled, and give the last state normed
        hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers(self.backbone)]
        try:
            self._pass(input_ids, real, visibility, hidden_states=False)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(self._to_slots(state, real) for state in found)

    def look(self, real: Tensor, return_weights: bool = False, fill: bool = False) -> Visibility:
        """Who sees whom in a batch whose slots hold a token where `real (batch, seq)` is True, under `masks`."""
        settings = {
            "return_weights": return_weights,
            "one_group": self._compiles,
            "heads": head_counts(self.config.decoder),
            "spare": self._spare(real) if fill and not (return_weights or self._compiles) else 0,
        }
        check_depth(self.backbone, self.masks)
        visibility = look(real, self.masks, self._dtype, self._packs, **settings)
        choose_biases(self.backbone, self.adaptation, visibility.kinds)
        found, weight = layers(self.backbone), self.get_input_embeddings().weight
        alone = frozenset(id(layer) for layer in found if sublayers_written_out(layer, weight, visibility))
        return replace(visibility, adaptation=self.adaptation, written_out=alone)

    def _spare(self, real: Tensor) -> int:
        """How many tokens a packed batch is filled up with, where its largest product is one for oneDNN."""
        decoder, weight = self.config.decoder, self.get_input_embeddings().weight
        largest = real.numel() * decoder.hidden_size * decoder.intermediate_size  # pads included
        if not (self._packs and onednn_pays(largest, weight)):
            return 0
        lengths = real.sum(dim=1).tolist()
        return spare(sum(lengths), max(lengths))

    @property
    def _compiles(self) -> bool:
        """Whether every number of groups, and every number of tokens that are read, would be another graph."""
        return torch.compiler.is_compiling() or any(
            layer._compiled_call_impl is not None or "_orig_mod" in layer._modules for layer in layers(self.backbone)
        )

    @property
    def _packs(self) -> bool:
        """Whether batches travel packed: NEFTune takes their second size, by which it scales, for the length of a row.

        Source: Jain et al. (2023), arXiv 2310.05914, algorithm 1.
        """
        embedding = self.get_input_embeddings()
        return self.config.unpadded and not (embedding.training and hasattr(embedding, "neftune_noise_alpha"))

    @property
    def _dtype(self) -> torch.dtype:
        """That of the token embedding: a replica of nn.DataParallel has no parameters to ask."""
        return self.get_input_embeddings().weight.dtype

    def _real(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Which slots of a checked batch hold a token, `(batch, seq)`."""
        check_implementation(self.backbone, IMPLEMENTATION)
        real = real_slots(input_ids, attention_mask, len(self.get_input_embeddings().weight))
        check_lengths(real, self.config.decoder)
        return real

    def _pass(
        self, input_ids: Tensor, real: Tensor, visibility: Visibility, hidden_states: bool, attentions: bool = False
    ) -> BaseModelOutput:
        """The decoder on the tokens of a batch, with the states of all layers and their attention weights if asked."""
        if self._packs:
            input_ids = input_ids[real][None]
            if visibility.spare:
                input_ids = torch.cat([input_ids, input_ids[:, :1].expand(1, visibility.spare)], dim=1)
        else:
            size = len(self.get_input_embeddings().weight)  # a slot without a token may hold anything
            input_ids = input_ids.masked_fill((input_ids < 0) | (input_ids >= size), 0)
        return self.backbone(
            input_ids=input_ids,
            position_ids=visibility.position_ids,
            use_cache=False,
            return_dict=True,
            visibility=visibility,
            output_hidden_states=hidden_states,
            output_attentions=attentions,
        )

    def _reading(self, visibility: Visibility, real: Tensor) -> Visibility:
        """`visibility` with the tokens that the pooler reads, if these are not all, and with what they see."""
        chosen = slots_read(self.config.pooling, real)
        if chosen is None:
            return visibility
        chosen = chosen[real] if self._packs else chosen.flatten()
        read, last = chosen.nonzero().flatten(), None
        if alone := visibility.written_out & {id(layers(self.backbone)[-1])}:
            last = replace(look_from(visibility, read), written_out=alone)
        elif not skips_unread(self.backbone):  # its layers were put in another order
            return visibility
        return replace(visibility, read=read, last=last)

    def _to_slots(self, states: Tensor, real: Tensor) -> Tensor:
        """`(1, tokens, dim)` packed, or `(batch, seq, dim)` padded -> `(batch, seq, dim)` with zeros at pads."""
        if not self._packs:
            return states.masked_fill(~real[..., None], 0)
        slots = real.flatten().nonzero().flatten()
        grid = states.new_zeros(real.numel(), states.shape[-1])
        return grid.index_copy_(0, slots, states[0, : len(slots)]).unflatten(0, real.shape)

    def _to_tokens(self, weights: Tensor, real: Tensor) -> Tensor:
        """Attention weights over the tokens of each row, in order: `(batch, head, width, width)`, 0 beyond the last.

        A batch that travelled padded has them over its slots, `(batch, head, seq, seq)`.
        """
        lengths = real.sum(dim=1)
        width = int(lengths.max())
        if not self._packs:
            order = real.int().argsort(dim=1, descending=True, stable=True)[:, None, :width]
            weights = weights.take_along_dim(order[..., None], dim=2).take_along_dim(order[:, :, None], dim=3)
        return weights * (torch.arange(width, device=real.device) < lengths[:, None])[:, None, :, None]


def encoder_of(model: nn.Module) -> GemmaEncoder:
    """The GemmaEncoder inside a model with a head, with LoRA or compiled, or the model itself."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    if found := next((module for module in modules if isinstance(module, GemmaEncoder)), None):
        return found
    raise InputError(f"no GemmaEncoder in a {type(model).__name__}; valid: an adapted model, see from_decoder")


def has_lora(model: nn.Module) -> bool:
    """Whether LoRA matrices lie on the layers of `model`."""
    return any("lora_" in name for name, _ in model.named_parameters())


AutoModel.register(GemmaEncoderConfig, GemmaEncoder)
