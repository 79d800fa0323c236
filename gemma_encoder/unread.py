"""No work on what nobody reads: after the last attention, a pooler of k tokens needs the states of k tokens a row.

The feed-forward block of the last layer computes each token by itself, so it is given these tokens alone, and the
others pass it by with a zero in its place. The vectors, the loss and every gradient are those of the whole block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from gemma_encoder.families import ffn_module, layers


def skip_unread(backbone: PreTrainedModel) -> None:
    """Let the last feed-forward block of `backbone` compute what `Visibility.read` names, in place.

    The layer tells it, so that gradient checkpointing, which calls the layer again, tells it again. Dropout on the
    output has to be there already: it acts on what was computed.
    """
    layer = layers(backbone)[-1]
    ffn = ffn_module(layer)
    if hasattr(ffn, "read"):  # a decoder that is adapted twice
        return
    ffn.read = None
    layer.register_forward_pre_hook(_tell, with_kwargs=True)
    ffn.register_forward_pre_hook(_choose)
    ffn.register_forward_hook(_spread)


def _tell(layer: nn.Module, inputs: tuple, keywords: dict[str, Any]) -> None:
    """What of the coming batch is read."""
    ffn_module(layer).read = keywords["visibility"].read


def _choose(ffn: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    """Of states `(rows, slots, dim)` those that are read, `(1, read, dim)`."""
    if ffn.read is None:
        return None
    ffn.shape = inputs[0].shape
    return (inputs[0].flatten(0, 1).index_select(0, ffn.read)[None],)


def _spread(ffn: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """What was computed, in its place, and zeros elsewhere: `(rows, slots, dim)`."""
    if ffn.read is None:
        return None
    rows, slots, dim = ffn.shape
    return output.new_zeros(rows * slots, dim).index_copy(0, ffn.read, output[0]).view(rows, slots, dim)
