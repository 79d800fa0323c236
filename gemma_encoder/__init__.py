"""Adapt a decoder-only language model as an encoder (arXiv 2503.02656)."""

from __future__ import annotations

import warnings
from importlib import import_module

__version__ = "0.1.0"

# in a notebook without ipywidgets, tqdm falls back on text; that is what we want, and no reader needs to know
warnings.filterwarnings("ignore", message="IProgress not found")

# name -> module; loaded on first use, so that the command line can refuse bad input without waiting for torch
_WHERE = {
    "GemmaEncoder": "heads",  # not "model": whoever has the encoder finds heads through the Auto classes too
    "GemmaEncoderConfig": "heads",
    "GemmaEncoderForRanking": "heads",
    "GemmaEncoderForSequenceClassification": "heads",
    "GemmaEncoderForTokenClassification": "heads",
    "InputError": "errors",
    "check_visibility": "verify",
    "compile_layers": "compiled",
    "embed": "inference",
    "influence_matrix": "verify",
    "load_model": "heads",
    "load_tokenizer": "loading",
    "predict": "inference",
    "rank": "inference",
}
__all__ = list(_WHERE)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
