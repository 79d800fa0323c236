"""The layers of an adapted model under torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from gemma_encoder.families import attention_modules, layers
from gemma_encoder.model import encoder_of
from gemma_encoder.unread import compute_unread
from gemma_encoder.visibility import Visibility

GRAPHS = 64  # allowed per class: LoRA, training, evaluation and single rows soon use up torch's default of 8


def compile_layers(model: nn.Module) -> None:
    """Compile every layer of an adapted model with torch.compile, in place; all share a graph.

    Same mathematics, other rounding; first batches wait for the compiler, and rows are computed in one group.
    On a GPU it pays, on a CPU it does not (benchmarks/results).
    """
    backbone = encoder_of(model).backbone
    compute_unread(backbone)  # hooks of one layer are another graph, and where layers are compiled all tokens are read
    for layer, attention in zip(layers(backbone), attention_modules(backbone), strict=True):
        layer.compile(dynamic=True, recompile_limit=GRAPHS)
        layer._compiled_call_impl = partial(_given_its_bias, layer._compiled_call_impl, attention)


def _given_its_bias(
    layer: Callable[..., Tensor], attention: nn.Module, *inputs: Tensor, visibility: Visibility | None = None, **more
) -> Tensor:
    """Call a compiled layer: which bias is its own is said out here, as a compiler makes a graph for every answer."""
    if visibility is not None and len(visibility.groups[0].biases) > 1:
        visibility = visibility.of_kind(attention.kinds[visibility.adaptation])
    return layer(*inputs, visibility=visibility, **more)
