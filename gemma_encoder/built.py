"""What of a configuration is built into a model, and whether the two still agree."""

from __future__ import annotations

from transformers import PreTrainedModel

from gemma_encoder.configuration import GemmaEncoderConfig, decoder_settings
from gemma_encoder.dropout import dropout_rates
from gemma_encoder.errors import InputError
from gemma_encoder.families import layers
from gemma_encoder.masks import Mask

# settings that are built into a model: changed in its configuration later, they would only be true of the checkpoint
BUILT = ("attention", "local_layers", "pooling", "pooling_heads", "pooling_latents", "pooling_projections")
BUILT += ("attention_dropout", "ffn_dropout")


def check_as_built(model: PreTrainedModel, encoder: PreTrainedModel) -> None:
    """Refuse a configuration that is no longer that of `model`: loaded again, it would be another one.

    encoder: the GemmaEncoder in `model`, or `model` itself.
    """
    check_depth(encoder.backbone, encoder.masks)
    now = built_in(model.config)
    for name in sorted(now.keys() | encoder.built.keys()):
        if (found := now.get(name)) != (value := encoder.built.get(name)):
            raise InputError(f"config.{name} is {found!r}, the model was built with {value!r}; valid: adapt it anew")
    if hasattr(model, "head"):
        found, asked = getattr(model.head.out, "out_features", None), model.config.num_labels
        if found != asked:
            raise InputError(f"config.num_labels is {asked}, the head has {found} outputs; valid: adapt it anew")
    for name, rates in dropout_rates(encoder.backbone).items():
        if rates != {found := getattr(model.config, name)}:
            raise InputError(
                f"config.{name} is {found!r}, the model drops {sorted(rates)}: its decoder was adapted once more, or "
                "changed; valid: adapt it anew"
            )


def built_in(config: GemmaEncoderConfig) -> dict[str, object]:
    """What of a configuration cannot be changed in a model that was built with it."""
    return {name: getattr(config, name) for name in BUILT} | decoder_settings(config.decoder)


def check_depth(backbone: PreTrainedModel, masks: list[Mask]) -> None:
    """Refuse a decoder that was cut without its configuration, after which masks are planned."""
    if (found := len(layers(backbone))) != len(masks):
        raise InputError(
            f"decoder has {found} layers, its configuration {len(masks)}; valid: layers, num_hidden_layers and "
            "layer_types all cut before from_decoder"
        )
