"""What is worked on: decoders of two shapes, and rows with the lengths of real tasks.

    python -m benchmarks.workload FOLDER    # fits data/lengths.csv anew on the data sets of FOLDER, of those it has

Lengths are characters of the rendered row over CHARACTERS_PER_TOKEN, as no decoder's tokenizer is at hand offline that
was made for real text. What a row says changes nothing about its cost, so its words are drawn at random.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, Gemma2Config, Gemma2ForSequenceClassification, PreTrainedTokenizerBase

from gemma_encoder.errors import InputError
from gemma_encoder.loading import TINY, checkpoint_path, load_tokenizer
from gemma_encoder.paths import DATA
from gemma_encoder.tokens import CHARACTERS_PER_TOKEN, token_ids

LENGTHS = DATA / "lengths.csv"
SHORTEST, LONGEST = 4, 512  # tokens
ATTENTION_DROPOUT = 0.1
FILES = {
    "SST-2": ("glue/sst2/train.jsonl.gz", ("sentence",)),
    "MNLI": ("glue/mnli/train.jsonl.gz", ("premise", "hypothesis")),
    "QNLI": ("glue/qnli/train.jsonl.gz", ("question", "sentence")),
    "BoolQ": ("super_glue/boolq/validation.jsonl.gz", ("passage", "question")),
    "MS MARCO": ("msmarco/trec_dl19.jsonl.gz", ("query", "passage")),
}
# longer rows are cut, for everybody
MAX_LENGTH = {"SST-2": 128, "MNLI": 128, "QNLI": 128, "BoolQ": 256, "MS MARCO": 128}
FITTED_ON = 20_000  # rows at most
SIZES = {
    "30M": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "8M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4},
}
COMMON = {"num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192, "query_pre_attn_scalar": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": LONGEST}


@dataclass(frozen=True)
class Work:
    """Rows of one task's lengths, as texts and as token ids (BOS included), with labels."""

    name: str
    texts: list[str]
    ids: list[list[int]]
    labels: list[int]
    max_length: int

    @property
    def tokens(self) -> int:
        """Real tokens of all rows."""
        return sum(map(len, self.ids))


def config_of(shape: str) -> Gemma2Config:
    """The configuration of a shape: the kit's own tiny decoder, or a size of the same architecture."""
    if shape == TINY:
        return AutoConfig.from_pretrained(checkpoint_path(TINY))
    return Gemma2Config(**SIZES[shape] | COMMON | SPECIAL)


def upstream(shape: str) -> Gemma2ForSequenceClassification:
    """transformers' own classifier of that shape, bidirectional, with the random weights that everybody gets.

    Its window counts differently (`|q - kv| <= W` where ours is `|q - kv| < W`), so it gets one less.
    """
    config = config_of(shape)
    config.is_causal, config.use_cache = False, False
    config.sliding_window -= 1
    config.attention_dropout, config.num_labels = ATTENTION_DROPOUT, 2
    torch.manual_seed(0)
    return Gemma2ForSequenceClassification._from_config(config, attn_implementation="eager", dtype=torch.float32)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of all contenders."""
    return load_tokenizer(TINY)


@cache
def _words() -> list[str]:
    """Words of the built-in texts that are one token behind a space."""
    text = (DATA / "tasks/glue/sst2/train.jsonl").read_text(encoding="utf-8").splitlines()
    words = sorted({word for line in text for word in json.loads(line)["sentence"].split() if word.isalpha()})
    ids = tokenizer()([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, row in zip(words, ids, strict=True) if len(row) == 1]


def work(name: str, rows: int, data: str | Path | None = None) -> Work:
    """`rows` rows with the lengths of task `name`: real ones if the folder `data` has any, else of its fit."""
    lengths, source = np.array(sample(name, rows, data)), random.Random(rows)
    # the name of a column comes first: it is one token where no space stands before it, other words are several
    texts = [" ".join(["text", *source.choices(_words(), k=int(length) - 2)]) for length in lengths]
    ids, _ = token_ids([(text,) for text in texts], tokenizer(), MAX_LENGTH[name], truncate=True)
    return Work(name, texts, ids, [source.randrange(2) for _ in texts], MAX_LENGTH[name])


def sample(name: str, rows: int, data: str | Path | None = None) -> list[int]:
    """Lengths in tokens, BOS included, in an order that is the same at every call."""
    if data is not None and name not in lacking(data):
        tokens = [1 + characters / CHARACTERS_PER_TOKEN for characters in real_characters(name, data)]
        chosen = random.Random(1).sample(tokens, min(rows, len(tokens)))
    else:
        fit = pd.read_csv(LENGTHS, index_col="task").loc[name]
        source = random.Random(1)
        chosen = [1 + math.exp(source.gauss(fit["log_mean"], fit["log_sd"])) for _ in range(rows)]
    return [min(max(round(tokens), SHORTEST), MAX_LENGTH[name]) for tokens in chosen]


def lacking(data: str | Path) -> list[str]:
    """The tasks that a folder of data sets has no rows of; bad input if it has those of none."""
    found = [name for name, (place, _) in FILES.items() if not (Path(data) / place).is_file()]
    if len(found) == len(FILES):
        valid = ", ".join(place for place, _ in FILES.values())
        raise InputError(f"no data set in folder {Path(data).name!r}; valid: one with some of {valid}")
    return found


def real_characters(name: str, data: str | Path) -> list[int]:
    """Characters of the rows of a task as they are rendered, `column: text column: text`."""
    place, columns = FILES[name]
    with gzip.open(Path(data) / place, "rt", encoding="utf-8") as lines:
        texts = islice((row for line in lines for row in _rows(json.loads(line))), FITTED_ON)
        return [len(" ".join(f"{column}: {row[column].strip()}" for column in columns)) for row in texts]


def _rows(record: dict) -> Iterator[dict]:
    """A record of a list of passages is one row a passage."""
    passages = record.get("passages")
    if passages is None:
        yield record
    else:
        yield from ({"query": record["query"], "passage": passage["text"]} for passage in passages)


def fit(data: str | Path) -> pd.DataFrame:
    """The lognormal of the lengths of every task: mean and standard deviation of ln(tokens without BOS).

    What the folder has no rows of keeps its recorded fit.
    """
    fits = pd.read_csv(LENGTHS, index_col="task").to_dict("index")
    for name in FILES.keys() - lacking(data):
        logs = [math.log(max(1.0, count / CHARACTERS_PER_TOKEN)) for count in real_characters(name, data)]
        found = {"log_mean": statistics.fmean(logs), "log_sd": statistics.stdev(logs), "rows": len(logs)}
        fits[name] = found | {"fitted_on": FILES[name][0]}
    return pd.DataFrame({name: fits[name] for name in FILES}).T.rename_axis("task").infer_objects().round(4)


if __name__ == "__main__":
    fit(sys.argv[1]).to_csv(LENGTHS)
