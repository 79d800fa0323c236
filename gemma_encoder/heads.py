"""What stands on the encoder: an MLP head for classes, numbers, lists of candidates, or single tokens.

    model = GemmaEncoderForSequenceClassification.from_decoder("google/gemma-2-2b", pooling="mean", num_labels=3)
    model = GemmaEncoderForRanking.from_decoder("google/gemma-2-2b", ranking_loss="listwise_softmax")

Importing this module makes the Auto classes of transformers find our checkpoints.
Source: paper, section 2.2 (pooler and MLP), section 3 (classification, regression, ranking).
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MultipleChoiceModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from gemma_encoder.configuration import GemmaEncoderConfig
from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.loading import adapted_config, places
from gemma_encoder.losses import (
    IGNORED,
    check_lists,
    cross_entropy,
    mean_squared_error,
    one_hot,
    ranking_loss,
    token_cross_entropy,
)
from gemma_encoder.model import INPUTS, GemmaEncoder, GemmaEncoderPreTrainedModel, refuse
from gemma_encoder.rows import check_rows


class ExactLinear(nn.Linear):
    """A linear layer in float32 at least, also where its weights were rounded by `model.to(torch.bfloat16)`.

    It is called like any layer, so that hooks run and LoRA adds to it.
    """

    def forward(self, vectors: Tensor) -> Tensor:
        """`x W^T + b`."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return F.linear(vectors.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class MLPHead(nn.Module):
    """Two layers on a vector: `W2 gelu(W1 x + b1) + b2`, `(..., dim) -> (..., num_labels)`, in float32 at least.

    In half precision many scores of a long list would be one and the same.

    The paper names a small MLP without its depth or width; two layers of the model's width are those of DHRD (arXiv
    2509.21487), which takes over the paper's pooling and head.
    """

    def __init__(self, dim: int, num_labels: int):
        super().__init__()
        self.dense = ExactLinear(dim, dim)
        self.out = ExactLinear(dim, num_labels)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits, or one score when `num_labels` is 1."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.out(F.gelu(self.dense(vectors)))


class GemmaEncoderWithHead(GemmaEncoderPreTrainedModel):
    """What the models below share: an encoder, and an MLP head of `config.num_labels`."""

    def __init__(self, config: GemmaEncoderConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        config.settle()
        head = MLPHead(config.decoder.hidden_size, config.num_labels)
        head.apply(self._initialize_weights)  # before a pooler draws: a seed gives the same head beside any of them
        self.encoder = GemmaEncoder(config, backbone)
        self.head = head
        self.post_init()


HEAD_INPUTS = (*INPUTS[:2], "labels", *INPUTS[2:])


class GemmaEncoderWithPooledHead(GemmaEncoderWithHead):
    """A head that answers for whole rows."""

    def row_logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The head on the pooled vector of each row: `(rows, seq) -> (rows, num_labels)`."""
        return self._answered(input_ids, attention_mask)[0]

    def _answered(
        self, input_ids: Tensor, attention_mask: Tensor | None, hidden_states: bool | None = None,
        attentions: bool | None = None,
    ) -> tuple[Tensor, BaseModelOutputWithPooling]:  # fmt: skip
        """`row_logits`, and what the encoder gave."""
        asked = hidden_states, attentions
        encoded = self.encoder(input_ids, attention_mask, *asked, only_pooled=True, return_dict=True)
        return self.head(encoded.pooler_output), encoded


class GemmaEncoderForSequenceClassification(GemmaEncoderWithPooledHead):
    """One answer a row: cross-entropy over `num_labels` classes, or squared error when `num_labels` is 1."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: object,
    ) -> SequenceClassifierOutput:
        """Logits `(batch, num_labels)`, and the mean loss over the batch when `labels (batch,)` are given.

        States of all layers and attentions as of the encoder. Any other input is an InputError.
        """
        refuse(others, HEAD_INPUTS)
        logits, encoded = self._answered(input_ids, attention_mask, output_hidden_states, output_attentions)
        loss = None if labels is None else self.loss(logits, labels)
        return SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of `logits (batch, num_labels)` against `labels (batch,)`."""
        if (asked := self.config.num_labels) != (width := logits.shape[1]):
            raise InputError(f"config.num_labels is {asked}, the head has {width} outputs; valid: {width}")
        return mean_squared_error(logits[:, 0], labels) if width == 1 else cross_entropy(logits, labels)


class GemmaEncoderForRanking(GemmaEncoderWithPooledHead):
    """One score a candidate, for lists of candidates: the passages of a query, choices, spans that may fill a gap.

    Ranking (MS MARCO), multiple choice (COPA) and span candidates (ReCoRD, WSC) are one computation: every candidate
    is a row of its own that holds question and candidate, the head gives it one score, and the scores of a list are
    compared. They differ in their labels and, by `config.ranking_loss`, in the loss.
    Its checkpoint has the weights of a GemmaEncoderForSequenceClassification with `num_labels` 1, and loads as one.
    """

    def __init__(self, config: GemmaEncoderConfig, backbone: PreTrainedModel | None = None):
        if config.num_labels != 1:
            raise InputError(f"num_labels {config.num_labels} does not fit a ranking head; valid: 1 (a score)")
        super().__init__(config, backbone)

    @classmethod
    def from_decoder(cls, decoder: str | Path | PreTrainedModel, **settings) -> Self:
        """Adapt a causal decoder; as GemmaEncoderPreTrainedModel.from_decoder, with `num_labels` 1."""
        return super().from_decoder(decoder, **{"num_labels": 1} | settings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: object,
    ) -> MultipleChoiceModelOutput:
        """Scores `(batch, list)` of `input_ids (batch, list, seq)`, and the mean loss over the lists with `labels`.

        A slot of a short list is one whose attention_mask holds no token: it costs nothing, its score is -inf, and
        its label is not read. `labels (batch, list)` are relevances; `labels (batch,)` name the one right candidate.
        States of all layers and attentions are those of the encoder, over the candidates in order, without empty slots.
        Any other input is an InputError.
        """
        refuse(others, HEAD_INPUTS)
        if input_ids.dim() != 3:
            raise InputError(f"input_ids of shape {tuple(input_ids.shape)}; valid: (batch, list, seq)")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mask.shape != input_ids.shape:
            raise InputError(f"attention_mask of shape {tuple(mask.shape)}; valid: {tuple(input_ids.shape)}")
        filled = check_lists(mask.bool().any(dim=2))
        rows, encoded = self._answered(input_ids[filled], mask[filled], output_hidden_states, output_attentions)
        scores = rows[:, 0]
        logits, loss = scores.new_full(filled.shape, float("-inf")).masked_scatter(filled, scores), None
        if labels is not None:
            relevances = labels
            if labels.dim() == 1:
                relevances = one_hot(labels, filled.shape[1])
                right = (relevances.bool() & filled).any(dim=1)
                check_rows(right, "have a label that names an empty slot", "that of a candidate")
            loss = ranking_loss(self.config.ranking_loss)(logits, relevances, filled)
        return MultipleChoiceModelOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class GemmaEncoderForTokenClassification(GemmaEncoderWithHead):
    """One answer a token: the head on every token state, without a pooler; cross-entropy over `num_labels` classes."""

    def __init__(self, config: GemmaEncoderConfig, backbone: PreTrainedModel | None = None):
        if config.pooling != "mean":  # a pooler that nothing reads would be saved, and trained by nothing
            raise InputError(f"pooling {config.pooling!r} does not fit a token head, which has none; valid: 'mean'")
        super().__init__(config, backbone)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **others: object,
    ) -> TokenClassifierOutput:
        """Logits `(batch, seq, num_labels)`, and the mean loss over the rows when `labels (batch, seq)` are given.

        Tokens labelled -100 and slots without a token are left out of the loss. States of all layers and
        attentions as of the encoder. Any other input is an InputError.
        """
        refuse(others, HEAD_INPUTS)
        asked = output_hidden_states, output_attentions
        encoded = self.encoder(input_ids, attention_mask, *asked, return_dict=True)
        logits, loss = self.head(encoded.last_hidden_state), None
        if labels is not None:
            if attention_mask is not None and labels.shape == attention_mask.shape:
                labels = labels.masked_fill(~attention_mask.bool(), IGNORED)
            loss = token_cross_entropy(logits, labels)
        return TokenClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)


HEADS = {
    kind.__name__: kind
    for kind in (GemmaEncoderForSequenceClassification, GemmaEncoderForRanking, GemmaEncoderForTokenClassification)
}


def class_of(name: str | Path, config: GemmaEncoderConfig) -> type[GemmaEncoderPreTrainedModel]:
    """The class that saved the checkpoint `name` of this configuration; an unknown one is an InputError."""
    kinds = HEADS | {GemmaEncoder.__name__: GemmaEncoder}
    return kinds[check_choice(f"class of checkpoint {str(name)!r}", (config.architectures or ["none"])[0], kinds)]


def load_model(name: str | Path, **kwargs) -> GemmaEncoderPreTrainedModel:
    """An adapted checkpoint as the class that saved it; `kwargs` as for `from_pretrained`."""
    return class_of(name, adapted_config(name, **places(kwargs))).from_pretrained(name, **kwargs)


AutoModelForSequenceClassification.register(GemmaEncoderConfig, GemmaEncoderForSequenceClassification)
AutoModelForMultipleChoice.register(GemmaEncoderConfig, GemmaEncoderForRanking)
AutoModelForTokenClassification.register(GemmaEncoderConfig, GemmaEncoderForTokenClassification)
