"""LoRA with PEFT: small trainable matrices on the decoder's linear layers; pooler and head are trained whole.

    model = add_lora(GemmaEncoderForSequenceClassification.from_decoder("google/gemma-2-2b"), rank=16)
    ...                                       # Trainer, as ever
    save_lora(model, "adapter")
    model = load_lora("adapter", "google/gemma-2-2b")
    merge_lora(model).save_pretrained("merged")

Plain PEFT does not save pooler or head unless told to, does not record how the decoder was adapted, does not notice
another base model, and merges in the precision of the weights.
Source: Hu et al. (2021), arXiv 2106.09685.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from gemma_encoder.built import check_as_built
from gemma_encoder.errors import InputError
from gemma_encoder.heads import class_of
from gemma_encoder.inference import evaluating
from gemma_encoder.inputs import positions, without_bos
from gemma_encoder.loading import adapted_config, load_decoder
from gemma_encoder.model import GemmaEncoderPreTrainedModel, cast, encoder_of, has_lora
from gemma_encoder.pooling import parse_pooling
from gemma_encoder.verify import LOAD_TOKENS, check_visibility

BASE = "base.json"  # beside the adapter: which decoder it belongs to
PEFT_PARTS = ("base_layer", "original_module")  # what PEFT puts into the names of weights that it leaves as they were


def add_lora(model: GemmaEncoderPreTrainedModel, rank: int = 16, alpha: float = 32) -> PeftModel:
    """Freeze the decoder and put `W + (alpha / rank) B A` on each of its linear layers; pooler and head stay trainable.

    `model` is changed in place, and keeps its mode. It behaves as before until it is trained: B starts at zero.
    A model that has an adapter already is an InputError.
    """
    if type(rank) is not int or rank < 1:
        raise InputError(f"rank {rank!r} is not valid; valid: an integer >= 1")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise InputError(f"alpha {alpha!r} is not valid; valid: a finite number > 0")
    if isinstance(model, PeftModel) or has_lora(model):
        raise InputError(f"a {type(model).__name__} with an adapter; valid: a model without one, see merge_lora()")
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "backbone." in name}
    settings = {"target_modules": sorted(linear), "modules_to_save": _trained_whole(model) or None}
    adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, **settings))
    return adapted.train(model.training)


def _trained_whole(model: GemmaEncoderPreTrainedModel) -> list[str]:
    """The modules that are new and have weights, which no adapter holds unless it is told to."""
    pool = ["pool"] if isinstance(encoder_of(model).pool, nn.Module) else []
    return [name for name, _ in model.named_children() if name == "head"] + pool


def _check_whole(model: GemmaEncoderPreTrainedModel, config: LoraConfig) -> None:
    """Refuse an adapter beside which pooler or head would be lost."""
    if lost := sorted(set(_trained_whole(model)) - set(config.modules_to_save or ())):
        raise InputError(f"the adapter does not keep {' and '.join(lost)}; valid: what add_lora() makes")


def _check_adapters(names: list[str]) -> None:
    """Refuse adapters that PEFT writes into folders of their own, where `load_lora` does not look."""
    if names != ["default"]:
        raise InputError(f"adapters {', '.join(map(repr, names))}; valid: one, 'default', as add_lora() makes it")


def _check_acting(model: PeftModel) -> None:
    """Refuse an adapter that is part of the base for now, whose digest would be another, or that is switched off."""
    if any(layer.merged or layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer)):
        raise InputError(
            "the adapter is merged or switched off; valid: one that acts, see unmerge_adapter, enable_adapter_layers"
        )


def _check_frozen(backbone: nn.Module) -> None:
    """Refuse a decoder that is trained beside its adapter: those weights would be in no file."""
    if trained := [name for name, value in backbone.named_parameters() if value.requires_grad and _is_base(name)]:
        raise InputError(
            f"the decoder is trained beside the adapter, in {', '.join(trained[:4])}; "
            "valid: a frozen decoder, or what merge_lora() gives, which save_pretrained keeps whole"
        )


def _is_base(name: str) -> bool:
    """Whether a weight is the decoder's own: neither a LoRA matrix nor a copy that PEFT trains in place of a module."""
    return "lora_" not in name and "modules_to_save" not in name.split(".")


def base_digest(backbone: nn.Module) -> str:
    """sha256 over names, types and bytes of a decoder's own weights, with or without LoRA on it."""
    whole = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        if _is_base(name):
            plain = ".".join(part for part in name.split(".") if part not in PEFT_PARTS)
            whole.update(f"{plain} {value.dtype} {tuple(value.shape)}".encode())
            whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def save_lora(model: PeftModel, folder: str | Path) -> None:
    """Write adapter, pooler, head, the settings of the adaptation and the digest of the base, without its weights.

    `load_lora` has to be given the base exactly as it was under the adapter: one whose embedding was resized, or whose
    weights were changed (by rounding, where an adapter was merged and unmerged), has to be saved as well. An adapter
    that is merged or switched off, several adapters, one of another name than "default", or a decoder
    that is trained beside its adapter is an InputError; nothing is written then.
    """
    _check_adapters(list(model.peft_config))
    _check_acting(model)
    inner = model.get_base_model()
    encoder = encoder_of(inner)
    _check_whole(inner, model.active_peft_config)
    _check_frozen(encoder.backbone)
    check_as_built(inner, encoder)
    model.save_pretrained(str(folder))
    inner.config.architectures = [type(inner).__name__]
    inner.config.save_pretrained(folder)
    facts = {"digest": base_digest(encoder.backbone), "dtype": str(inner.dtype).removeprefix("torch.")}
    Path(folder, BASE).write_text(json.dumps(facts, indent=2) + "\n")


def load_lora(folder: str | Path, decoder: str | Path | PreTrainedModel, trainable: bool = False) -> PeftModel:
    """The model that `save_lora` wrote, on `decoder`, which must be the one it was trained on.

    Another base, a folder without an adapter, or an adapter without all its weights is an InputError; a mask that is
    not the planned one is a VisibilityError.
    """
    adapter = Path(folder, "adapter_model.safetensors")
    for name in (BASE, "config.json", "adapter_config.json", adapter.name):
        if not Path(folder, name).is_file():
            raise InputError(f"adapter folder {str(folder)!r} has no {name}; valid: what save_lora wrote")
    digest, dtype = _facts(folder)
    backbone = load_decoder(decoder, dtype)
    found = base_digest(backbone)
    if found != digest:
        raise InputError(
            f"adapter {str(folder)!r} belongs to a base of digest {digest[:12]}; this one has {found[:12]}"
        )
    config = adapted_config(folder)
    model = class_of(folder, config)(config, backbone=backbone)
    cast(model, dtype)
    try:
        _check_whole(model, LoraConfig.from_pretrained(str(folder)))
        loaded = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        missing = sorted(get_peft_model_state_dict(loaded).keys() - load_file(adapter).keys())
    except KeyError as error:  # how PEFT says that a module it was to keep is not in the file
        missing = [str(error.args[0])]
    except (ValueError, TypeError, SafetensorError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot read the adapter in {str(folder)!r}: {said}; valid: what save_lora wrote") from error
    if missing:
        raise InputError(f"adapter {str(folder)!r} lacks weights for {type(model).__name__}: {', '.join(missing[:4])}")
    check_visibility(model, tokens=LOAD_TOKENS)
    return loaded


def _facts(folder: str | Path) -> tuple[str, torch.dtype]:
    """The digest and the precision of the base that the adapter in `folder` belongs to."""
    try:
        facts = json.loads(Path(folder, BASE).read_text())
        return facts["digest"], getattr(torch, facts["dtype"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {BASE} of adapter {str(folder)!r}; valid: what save_lora wrote") from error


@torch.no_grad()
def merge_lora(model: PeftModel) -> GemmaEncoderPreTrainedModel:
    """The plain model with the adapter added to its weights, all of which can be trained.

    They are summed in float32, or float64 where that is their type, then rounded once to their type.

    Prints by how much the vector of a fixed row moves, relative to the largest value: rounding, and nothing else.
    """
    dtype, before = model.get_base_model().dtype, _vectors(model.get_base_model())
    exact = torch.promote_types(dtype, torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(exact)
    merged = model.merge_and_unload().requires_grad_()
    cast(merged, dtype)
    gap = (_vectors(merged) - before).abs().max() / before.abs().max()
    types = [str(each).removeprefix("torch.") for each in (exact, dtype)]
    print(f"merged in {types[0]}, kept in {types[1]}: the vector of a fixed row moved by {gap:.1e}")
    return merged


def _vectors(model: GemmaEncoderPreTrainedModel) -> torch.Tensor:
    """Pooled vector of a row that is the same for every model of one vocabulary and pooler: `(1, dim)`, float64."""
    encoder = encoder_of(model)
    config = encoder.config.decoder
    count = max(min(64, positions(config) or 64), parse_pooling(encoder.config.pooling)[1])
    ids = without_bos(torch.arange(count, device=model.device)[None] * 7 % config.vocab_size, config)
    with evaluating(model):
        return encoder(ids).pooler_output.double()
