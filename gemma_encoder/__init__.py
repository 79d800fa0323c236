"""Adapt a decoder-only language model as an encoder (arXiv 2503.02656)."""

from gemma_encoder.errors import InputError
from gemma_encoder.loading import load_tokenizer
from gemma_encoder.model import GemmaEncoder, GemmaEncoderConfig, GemmaEncoderForSequenceClassification
from gemma_encoder.verify import check_visibility, influence_matrix

__version__ = "0.1.0"

__all__ = [
    "GemmaEncoder",
    "GemmaEncoderConfig",
    "GemmaEncoderForSequenceClassification",
    "InputError",
    "check_visibility",
    "influence_matrix",
    "load_tokenizer",
]
