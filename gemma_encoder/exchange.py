"""Modules of a decoder exchanged for ours: the same weights and mathematics, less time on a CPU.

The class of a module changes, no method is put on the module itself: a replica of nn.DataParallel would run with the
weights of the original.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from gemma_encoder.gemma2 import Gemma2DecoderLayer, Gemma2RotaryEmbedding
from gemma_encoder.linear import Linear
from gemma_encoder.norm import Gemma2RMSNorm, Gemma3RMSNorm, GemmaRMSNorm

CLASSES = (Gemma2DecoderLayer, Gemma2RotaryEmbedding, GemmaRMSNorm, Gemma2RMSNorm, Gemma3RMSNorm, Linear)
OURS = {kind.__bases__[-1]: kind for kind in CLASSES}


def exchange(backbone: PreTrainedModel) -> None:
    """Give the modules of `backbone` the classes of ours, in place; those of another class stay as they are."""
    for module in backbone.modules():
        module.__class__ = OURS.get(type(module), type(module))
