"""Checkpoints and tokenizers from a folder or the hub: safetensors only, no remote code, one clear line on failure."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file, extract_commit_hash, logging

from gemma_encoder.attention import IMPLEMENTATION
from gemma_encoder.configuration import ADAPTATION_SETTINGS, GemmaEncoderConfig, decoder_settings
from gemma_encoder.errors import InputError
from gemma_encoder.families import check_family
from gemma_encoder.hub import reachable
from gemma_encoder.paths import DATA

TINY = "tiny"
DENIED = re.compile(r"gated|\b40[13]\b")  # bounded: a commit may hold these digits
# files beside a checkpoint that say something to people only
UNREAD = re.compile(r"\..*|.*\.(md|rst|pdf|png|jpe?g)|(readme|licen[cs]e|notice)(\.txt)?", re.IGNORECASE)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# what a language model of a supported family has on top of its decoder, or encoder
LM_HEADS = ("lm_head.", "embed_out.", "decoder.", "head.")
# settings that a checkpoint may be loaded with anew: they change how it runs and trains, not what it is
CHANGEABLE = ("attention_dropout", "ffn_dropout", "ranking_loss", "text_columns", "unpadded")
PLACES = ("revision", "cache_dir")  # what from_pretrained takes that says where a checkpoint is


def hub_name(name: str) -> tuple[str, str | None]:
    """The repository and the revision of a hub name: "owner/model@revision", a commit, tag or branch.

    Without a revision it is None: the hub's main branch is taken.
    """
    repository, at, revision = name.partition("@")
    if at and not revision:
        raise InputError(f"model {name!r} has an empty revision; valid: {repository}@COMMIT, or {repository}")
    return repository, revision or None


def checkpoint_path(name: str | Path) -> str:
    """Where `name` is: "tiny" is the kit's own decoder, a folder must hold a checkpoint, the rest is on the hub.

    A name of the hub is owner/model, or owner/model@revision (see `hub_name`). A folder goes before a name of the hub.
    """
    if str(name) == TINY:
        return str(DATA / "models" / TINY)
    folder = Path(name).expanduser()
    if not str(name) or not folder.is_dir():
        repository = hub_name(str(name))[0]
        if repository.count("/") != 1 or repository.startswith((".", "~", "/")):
            valid = f"{TINY!r}, a checkpoint folder, or a hub name owner/model or owner/model@revision"
            raise InputError(f"no model at {str(name)!r}; valid: {valid}")
        return str(name)
    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {str(name)!r} has no config.json; valid: a folder in transformers' format")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model folder {str(name)!r} has no weights; valid: a folder with *.safetensors files")
    return str(folder)


def _explain(name: str, local: bool, error: Exception) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # the first line says which value is wrong, the second why
    said = " ".join(map(str.strip, lines)) if isinstance(error, StrictDataclassError) else lines[0]
    if local:
        return f"cannot load {name!r}: {said}; valid: a checkpoint in transformers' format"
    if DENIED.search(str(error)):
        return (
            f"model {name!r} is gated: accept its licence on its hub page, create a read token with access to gated "
            f"models, run `hf auth login`; or use --model {TINY}, which needs none of it"
        )
    if not reachable():
        return f"no network for hub model {name!r}; valid without network: a checkpoint folder, or --model {TINY}"
    return f"cannot load hub model {name!r}: {said}"


def load_with(loader: Callable[..., Any], name: str | Path, **kwargs: Any) -> Any:
    """Call a `from_pretrained` of transformers on `name`; what goes wrong becomes one line."""
    where = checkpoint_path(name)
    local = Path(where).is_dir()
    if not local:
        where, revision = hub_name(where)
        kwargs |= {"revision": revision} if revision else {}
    if not sys.stderr.isatty():  # a progress bar that nobody watches fills logs and reports
        logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing or left over is for check_loaded to say
    try:
        kwargs |= {"trust_remote_code": False, "local_files_only": local or not reachable()}
        return loader(where, **kwargs)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise InputError(_explain(str(name), local, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def _load_weights(
    loader: Callable[..., Any], name: str | Path, ignored: tuple[str, ...], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model through `loader`, checked for all its weights; model and info."""
    # sizes that differ are let through here, so that check_loaded can say which
    kwargs |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = load_with(loader, name, **kwargs)
    check_loaded(name, model, info, ignored)
    return model, info


def check_loaded(name: str | Path, model: PreTrainedModel, info: dict[str, Any], ignored: tuple[str, ...]) -> None:
    """Every weight of `model` came from the checkpoint, and every weight of the checkpoint went into the model."""
    missing = sorted(info["missing_keys"])
    missing += [f"{key} {tuple(needed)} (has {tuple(found)})" for key, found, needed in sorted(info["mismatched_keys"])]
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(ignored))
    for what, keys in (("lacks", missing), ("has unknown", unexpected)):
        if keys:
            raise InputError(
                f"checkpoint {str(name)!r} {what} weights for {type(model).__name__}: {', '.join(keys[:4])}"
            )


def load_decoder(decoder: str | Path | PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The decoder without its language-model head, with all its weights, as `dtype`; a loaded one in place."""
    if not isinstance(decoder, (str, Path, PreTrainedModel)):
        raise InputError(f"decoder {decoder!r} is not valid; valid: a checkpoint folder, a hub name, or a loaded model")
    if isinstance(decoder, PreTrainedModel):
        check_family(decoder.base_model.config)
        _check_floating(decoder.base_model)
        for parameter in decoder.base_model.parameters():  # not `.to`, which would round the rotary frequencies too
            parameter.data = parameter.data.to(dtype)
        return decoder.base_model
    config = decoder_config(decoder)
    settings = {"config": config, "dtype": dtype, "attn_implementation": IMPLEMENTATION}
    backbone = _load_weights(AutoModel.from_pretrained, decoder, LM_HEADS, **settings)[0]
    _check_floating(backbone)
    return backbone


def decoder_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a decoder of a supported family; any other checkpoint is an InputError."""
    config = load_with(AutoConfig.from_pretrained, name)
    check_family(config)
    return config


def _check_floating(backbone: PreTrainedModel) -> None:
    """Refuse a quantised decoder: converting packed weights to another type would make noise of them."""
    for name, parameter in backbone.named_parameters():
        if not parameter.is_floating_point():
            raise InputError(
                f"weight {name} of the decoder is {parameter.dtype}; valid: floating-point weights, not quantised ones"
            )


def adapted_config(name: str | Path, **where: Any) -> PreTrainedConfig:
    """The configuration of an adapted checkpoint; any other checkpoint is an InputError. where: see `places`."""
    config = load_with(AutoConfig.from_pretrained, name, **where)
    if config.model_type != GemmaEncoderConfig.model_type:
        kind = config.model_type
        raise InputError(f"checkpoint {str(name)!r} is a {kind!r}, not adapted yet; valid: what save_pretrained wrote")
    return config


def places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings of `from_pretrained` that say where a checkpoint is."""
    return {setting: settings[setting] for setting in PLACES if setting in settings}


def load_adapted(
    loader: Callable[..., Any], name: str | Path, ignored: tuple[str, ...], **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """An adapted checkpoint through `loader`, a `from_pretrained` of ours, with all its weights; model and info.

    Weights of the checkpoint whose names start with one of `ignored` may be left over. Asking for another adaptation
    than that of the checkpoint is an InputError.
    """
    has = adapted_config(name, **places(kwargs))
    wanted = kwargs.get("config")  # where the Auto classes put what they are asked for
    found = {setting: getattr(has, setting) for setting in set(ADAPTATION_SETTINGS) - {*CHANGEABLE, "id2label"}}
    asked = {setting: kwargs.get(setting, getattr(wanted, setting, value)) for setting, value in found.items()}
    found |= (decoder := decoder_settings(has.decoder))
    asked |= decoder | decoder_settings(kwargs.get("decoder", getattr(wanted, "decoder", {})))
    for setting in sorted(asked):
        if asked[setting] != found.get(setting):
            raise InputError(
                f"checkpoint {str(name)!r} is adapted with {setting} {found.get(setting)!r}, not {asked[setting]!r}; "
                f"valid: {found.get(setting)!r}, or adapt its decoder anew"
            )
    if (asked := kwargs.get("attn_implementation", IMPLEMENTATION)) != IMPLEMENTATION:
        raise InputError(f"attn_implementation {asked!r} does not know our masks; valid: {IMPLEMENTATION!r}")
    try:
        return _load_weights(loader, name, ignored, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"cannot load {str(name)!r}: {error}; valid settings: {', '.join(CHANGEABLE)}") from error


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside the checkpoint; where it has no pad token, its end-of-text token pads."""
    folder = Path(checkpoint_path(name))
    if folder.is_dir() and not any((folder / file).is_file() for file in VOCABULARIES):
        # transformers would make an empty tokenizer up, to which every word is unknown
        raise InputError(f"model folder {str(name)!r} has no tokenizer; valid: a folder with one of {VOCABULARIES}")
    tokenizer = load_with(AutoTokenizer.from_pretrained, name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_digest(name: str | Path) -> str:
    """sha256 over a checkpoint folder, what is for people left out; for a hub model, the commit of its revision."""
    folder = Path(checkpoint_path(name))
    if not folder.is_dir():
        return _commit(str(name))
    paths = sorted(path for path in folder.resolve().iterdir() if path.is_file() and not UNREAD.fullmatch(path.name))
    stats = [path.stat() for path in paths]
    return _files_digest(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True)))


@cache
def _commit(name: str) -> str:
    load_with(AutoConfig.from_pretrained, name)  # says what is wrong with the model
    return extract_commit_hash(load_with(cached_file, name, filename="config.json"), None)


@cache
def _files_digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """sha256 over files, each given with its size and time: one that is written anew is read anew."""
    whole = hashlib.sha256()
    for path, *_ in files:
        whole.update(path.name.encode())
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
