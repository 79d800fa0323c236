"""No work on what nobody reads: after the last attention, a pooler of k tokens needs the states of k tokens a row.

The feed-forward block of the last layer computes each token by itself, so it is given these tokens alone, and the
others pass it by with a zero in its place. The vectors, the loss and every gradient are those of the whole block.
Where the sublayers of Gemma 2 are written out, the last attention has queries for these tokens alone; see `gemma2`.
"""

from __future__ import annotations

import threading
from typing import Any

from torch import Size, Tensor, nn
from transformers import PreTrainedModel

from gemma_encoder.families import attention_modules, ffn_modules


class _Batch(threading.local):
    """What is read of the batch that this thread runs: threads may share a model, so no module can hold it."""

    read: Tensor | None = None
    shape: Size | None = None


_batch = _Batch()


def skip_unread(backbone: PreTrainedModel) -> None:
    """Let the last feed-forward block of `backbone` compute what `Visibility.read` names, in place.

    Three hooks: `_tell` on the last attention notes which tokens are read, `_choose` gives the feed-forward block those
    alone, `_spread` puts its output back in place. `_tell` sits on the attention so that it runs again when gradient
    checkpointing recomputes the layer, perhaps in another thread. Dropout on the output has to be there already: it
    acts on what was computed.
    """
    if skips_unread(backbone):  # a decoder that is adapted twice
        return
    compute_unread(backbone)
    attention, ffn = attention_modules(backbone)[-1], ffn_modules(backbone)[-1]
    attention.unread_hooks = [
        attention.register_forward_pre_hook(_tell, with_kwargs=True),
        ffn.register_forward_pre_hook(_choose),
        ffn.register_forward_hook(_spread),
    ]


def compute_unread(backbone: PreTrainedModel) -> None:
    """Undo `skip_unread`."""
    for attention in attention_modules(backbone):  # layers may have been put in another order
        for hook in vars(attention).pop("unread_hooks", ()):
            hook.remove()


def skips_unread(backbone: PreTrainedModel) -> bool:
    """Whether the hooks are on the last layer, and on no other: layers may be put in another order, or copied."""
    *others, last = (_tell in attention._forward_pre_hooks.values() for attention in attention_modules(backbone))
    return last and not any(others)


def _tell(attention: nn.Module, inputs: tuple, keywords: dict[str, Any]) -> None:
    """What of the coming batch is read, if more goes on."""
    visibility = keywords.get("visibility")
    read = visibility.read if visibility is not None and visibility.last is None else None
    if _batch.read is not read:  # torch.compile cannot write where activations are recomputed
        _batch.read = read


def _choose(ffn: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    """Of states `(rows, slots, dim)` those that are read, `(1, read, dim)`."""
    if _batch.read is None:
        return None
    _batch.shape = inputs[0].shape
    return (inputs[0].flatten(0, 1).index_select(0, _batch.read)[None],)


def _spread(ffn: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
    """What was computed, in its place, and zeros elsewhere: `(rows, slots, dim)`."""
    read = _batch.read
    if read is None:
        return None
    _batch.read = None
    rows, slots, dim = _batch.shape
    return output.new_zeros(rows * slots, dim).index_copy(0, read, output[0]).view(rows, slots, dim)
