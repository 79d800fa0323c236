"""Running an adapted model over many examples: sorted by length, without padding, order kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gemma_encoder.model import GemmaEncoderPreTrainedModel


@torch.no_grad()
def in_batches(
    model: GemmaEncoderPreTrainedModel,
    rows: Sequence[Sequence[int]],
    output: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Tensor:
    """`output(input_ids, attention_mask) -> (batch, ...)` over token-id rows, as float32 on the CPU, in their order.

    Rows of like length share a batch, so that attention opens few empty slots. The model is left in the mode it was in.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    training, done = model.training, []
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = [torch.as_tensor(rows[index]) for index in order[start : start + batch_size]]
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
            done.append(output(ids.to(model.device), mask.to(model.device)).float().cpu())
    finally:
        model.train(training)
    return torch.cat(done)[torch.tensor(order).argsort()]
