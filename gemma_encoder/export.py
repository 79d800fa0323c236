"""Adapted models for sentence-transformers: `SentenceTransformer` gives our vectors, `CrossEncoder` our scores.

    export_sentence_transformer(model, tokenizer, "vectors")

    import gemma_encoder.heads  # tells transformers what a gemma_encoder checkpoint is; no remote code
    SentenceTransformer("vectors").encode(texts)  # equals embed(model, tokenizer, texts)

Rows are built by a chat template that puts one BOS before the texts and the names of the columns before each, as
`gemma_encoder.tokens` does. What differs is theirs: rows longer than `max_length`, or than the decoder has positions
for, are cut without a word, and a special token that somebody typed becomes one.
"""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.heads import GemmaEncoderWithPooledHead
from gemma_encoder.inputs import positions
from gemma_encoder.model import GemmaEncoderPreTrainedModel, encoder_of, has_lora
from gemma_encoder.tokens import bos_ids


def row_template(columns: tuple[str, ...] | list[str]) -> str:
    """The Jinja template of a row: `<bos>name: text name: text`, or `<bos>text text` without columns.

    A tokenizer without BOS has its [CLS] there, as in `tokens.bos_ids`. Another number of texts than of columns raises.
    """
    prefix = f"{{{{ {json.dumps(list(columns))}[loop.index0] }}}}: " if columns else ""
    text = "{{ message['content'] | trim }}"
    each = f"{{% for message in messages %}}{{{{ ' ' if loop.index0 }}}}{prefix}{text}{{% endfor %}}"
    return f"{_count_check(columns) if columns else ''}{{{{ bos_token or cls_token }}}}{each}"


def _count_check(columns: tuple[str, ...] | list[str]) -> str:
    valid = json.dumps(f" texts; valid: {len(columns)} ({', '.join(columns)})")
    said = f"'a row has ' ~ messages | length ~ {valid}"
    return f"{{% if messages | length != {len(columns)} %}}{{{{ raise_exception({said}) }}}}{{% endif %}}"


def export_sentence_transformer(
    model: GemmaEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, max_length: int = 512
) -> None:
    """Write `folder` for `SentenceTransformer(folder)`: the pooled vectors of `embed`, with any pooler.

    A folder that is there already is an InputError.
    """
    from sentence_transformers import SentenceTransformer

    _refuse_lora(model)
    module = _module(encoder_of(model), tokenizer, folder, max_length, "feature-extraction", "pooler_output")
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder), create_model_card=False)


def export_cross_encoder(
    model: GemmaEncoderWithPooledHead, tokenizer: PreTrainedTokenizerBase, folder: str | Path, max_length: int = 512
) -> None:
    """Write `folder` for `CrossEncoder(folder)`: the logits of `predict`, without a sigmoid.

    A model without a head over rows, and a folder that is there already, are an InputError. CrossEncoder takes lists of
    pairs, and of rows of one text only one at a time: `predict(text)`.
    """
    from sentence_transformers import CrossEncoder

    _refuse_lora(model)
    if not isinstance(model, GemmaEncoderWithPooledHead):
        raise InputError(f"a {type(model).__name__} scores no rows; valid: a classifier or a ranking model")
    module = _module(model, tokenizer, folder, max_length, "sequence-classification", "logits")
    encoder = CrossEncoder(modules=[module], device="cpu", activation_fn=nn.Identity())
    encoder.save_pretrained(str(folder), create_model_card=False)


def _refuse_lora(model: nn.Module) -> None:
    if has_lora(model):
        raise InputError("a model with LoRA has no checkpoint of its own; valid: what merge_lora() gives")


def _module(
    model: GemmaEncoderPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    max_length: int,
    task: str,
    output: str,
) -> nn.Module:
    """The one module of both exports: our model behind our row template."""
    from sentence_transformers.base.modules import Transformer

    if Path(folder).exists():
        raise InputError(f"folder {str(folder)!r} is there already; valid: a new one")
    least, most = len(bos_ids(tokenizer)) + 1, positions(encoder_of(model).config.decoder)
    if type(max_length) is not int or max_length < least:
        raise InputError(f"max_length {max_length!r} is not valid; valid: an integer >= {least}")
    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = row_template(model.config.text_columns)
    tokenizer.model_max_length = min(max_length, most or max_length)
    way = {"method": "forward", "method_output_name": output}
    name = "scores" if task == "sequence-classification" else "sentence_embedding"
    with tempfile.TemporaryDirectory() as checkpoint:
        model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        return Transformer(
            checkpoint,
            transformer_task=task,
            modality_config={"text": way, "message": way | {"format": "flat"}},
            module_output_name=name,
        )
