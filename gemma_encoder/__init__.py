"""Adapt a decoder-only language model as an encoder (arXiv 2503.02656)."""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

# name -> module; loaded on first use, so that the command line can refuse bad input without waiting for torch
_WHERE = {
    "GemmaEncoder": "model",
    "GemmaEncoderConfig": "model",
    "GemmaEncoderForSequenceClassification": "model",
    "InputError": "errors",
    "check_visibility": "verify",
    "influence_matrix": "verify",
    "load_tokenizer": "loading",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
