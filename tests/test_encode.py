"""From rows to token ids: one BOS, every part present, the limit kept, nothing typed becomes a special token."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gemma_encoder import InputError
from gemma_encoder.tasks import collate, encode, get_task

TEXT = "sentence1: A plane is taking off. sentence2: An air plane is taking off. question: sentence: premise: " * 3
SST2, STSB, RTE = get_task("sst2"), get_task("stsb"), get_task("rte")


def make_tokenizer(bos: bool = True, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE, so that any text has tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[(token, backend.token_to_id(token)) for token in specials[1:]]
        )
    named = {"pad_token": "<pad>", "eos_token": "<eos>"} | ({"bos_token": "<bos>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **named)


PLAIN, ADDS_BOS, NO_BOS = make_tokenizer(), make_tokenizer(adds_bos=True), make_tokenizer(bos=False)
PAD, BOS, EOS = 0, 1, 2


def one(row: dict, task, tokenizer=PLAIN, max_length: int = 1000, truncate: bool = False) -> list[int]:
    return encode([row], task, tokenizer, max_length, truncate)[0][0]["input_ids"]


def test_the_tokenizers_of_this_file_are_as_described():
    assert PLAIN("x").input_ids[0] != BOS and ADDS_BOS("x").input_ids[0] == BOS and NO_BOS.bos_token_id is None
    assert PLAIN("<bos>").input_ids == [BOS]


@pytest.mark.parametrize("tokenizer", [PLAIN, ADDS_BOS, NO_BOS], ids=["plain", "adds bos", "no bos"])
def test_the_template(tokenizer):
    bos = "<bos>" if tokenizer.bos_token else ""
    assert tokenizer.decode(one({"sentence": "fine"}, SST2, tokenizer)) == f"{bos}sentence: fine"
    pair = one({"sentence1": "A plane.", "sentence2": "An air plane."}, STSB, tokenizer)
    assert tokenizer.decode(pair) == f"{bos}sentence1: A plane. sentence2: An air plane."


def test_white_space_around_a_text_is_dropped_and_inside_kept():
    assert PLAIN.decode(one({"sentence": " two  words \n"}, SST2)) == "<bos>sentence: two  words"


def test_labels_come_along_with_their_type_and_rows_without_labels_are_fine():
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    classes, _ = encode(Dataset.from_dict(rows | {"label": [1, 0]}), RTE, PLAIN, 64)
    scores, _ = encode(Dataset.from_dict(rows | {"label": [2.5, 0.0]}), STSB, PLAIN, 64)
    assert classes["labels"][:] == [1, 0] and classes.features["labels"].names == list(RTE.labels)
    assert scores["labels"][:] == [2.5, 0.0]
    unlabelled, _ = encode([{"sentence": "x"}], SST2, PLAIN, 64)
    assert unlabelled.column_names == ["input_ids"]


def test_more_rows_than_are_tokenised_at_once_keep_their_order():
    rows = [{"sentence": f"text {at}", "label": at % 2} for at in range(2345)]
    encoded, truncated = encode(rows, SST2, PLAIN, 64)
    assert PLAIN.batch_decode(encoded["input_ids"][:]) == [f"<bos>sentence: text {at}" for at in range(2345)]
    assert encoded["labels"][:] == [at % 2 for at in range(2345)] and truncated == 0


@pytest.mark.parametrize("tokenizer", [PLAIN, ADDS_BOS], ids=["plain", "adds bos"])
@pytest.mark.parametrize("typed", ["<bos>", "<eos>", "<pad>", "a <bos> b<eos>", "<bos><bos>"])
def test_a_special_token_in_someones_text_is_text(tokenizer, typed):
    ids = one({"sentence": typed}, SST2, tokenizer)
    assert [at for at in ids if at in (PAD, BOS, EOS)] == [BOS] and ids[0] == BOS
    assert tokenizer.decode(ids) == f"<bos>sentence: {typed}"
    assert tokenizer("<bos>", add_special_tokens=False).input_ids == [BOS]  # the tokenizer is as it was


def test_a_row_over_the_limit_is_named_and_the_others_counted():
    rows = [{"sentence": "x" * length} for length in (5, 50, 5, 90)]
    lengths = [len(one(row, SST2)) for row in rows]
    with pytest.raises(InputError) as caught:
        encode(rows, SST2, PLAIN, 30)
    assert str(caught.value) == (
        f"row 1 (counted from 0), which begins 'sentence: xxxxxxxxx', has {lengths[1]} tokens, the limit is 30; "
        "2 of 4 rows are over it, the longest with "
        f"{lengths[3]} tokens; raise max_length, or ask for truncation"
    )
    encoded, truncated = encode(rows, SST2, PLAIN, 30, truncate=True)
    assert [len(ids) for ids in encoded["input_ids"]] == [lengths[0], 30, lengths[2], 30] and truncated == 2
    assert encode(rows, SST2, PLAIN, max(lengths))[1] == 0


def test_truncation_takes_from_the_longest_segment_first():
    long, short = {"sentence1": "x" * 60}, {"sentence2": "y"}
    alone = one(long | short, RTE)
    tail = PLAIN(" sentence2: y").input_ids
    assert alone[-len(tail) :] == tail
    assert one(long | short, RTE, max_length=40, truncate=True) == alone[: 40 - len(tail)] + tail
    even = one({"sentence1": "x" * 60, "sentence2": "y" * 60}, RTE, max_length=42, truncate=True)
    first, second = (PLAIN(text).input_ids for text in ("sentence1: " + "x" * 60, " sentence2: " + "y" * 60))
    assert even == [BOS, *first[:21], *second[:20]]


@pytest.mark.parametrize(
    ("rows", "task", "max_length", "message"),
    [
        ([{"text": "x"}], SST2, 9, "rows have no column 'sentence', which sst2 needs; columns there: text"),
        ([{"sentence1": "x"}], RTE, 9, "rows have no column 'sentence2', which rte needs; columns there: sentence1"),
        ([], SST2, 9, "rows have no column 'sentence', which sst2 needs; columns there: none"),
        ([{"sentence": "x"}], SST2, 1, "max_length 1; valid for sst2: 2 or more"),
        ([{"sentence1": "x", "sentence2": "y"}], RTE, 2, "max_length 2; valid for rte: 3 or more"),
    ],
)
def test_bad_input_is_named(rows, task, max_length, message):
    with pytest.raises(InputError) as caught:
        encode(rows, task, PLAIN, max_length, truncate=True)
    assert str(caught.value) == message


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["<bos>", "a<bos>b", "<pad>"]
)


@settings(deadline=None)
@given(
    pair=st.tuples(ANY_TEXT, ANY_TEXT),
    max_length=st.integers(3, 60),
    tokenizer=st.sampled_from([PLAIN, ADDS_BOS]),
)
def test_one_bos_both_parts_and_the_limit_whatever_the_text(pair, max_length, tokenizer):
    row = dict(zip(RTE.text_columns, pair, strict=True))
    parts = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        for text in (f"sentence1: {pair[0].strip()}", f" sentence2: {pair[1].strip()}")
    ]
    encoded, truncated = encode([row], RTE, tokenizer, max_length, truncate=True)
    ids = encoded[0]["input_ids"]
    whole = 1 + len(parts[0]) + len(parts[1])
    assert ids[0] == BOS and not {PAD, BOS, EOS} & set(ids[1:])
    assert len(ids) == min(whole, max_length) and truncated == (whole > max_length)
    # both parts begin as they should, and none was cut below the other
    kept = [(at, len(ids) - 1 - at) for at in range(1, len(ids) - 1)]
    kept = [(a, b) for a, b in kept if ids[1:] == parts[0][:a] + parts[1][:b]]
    assert any((a == len(parts[0]) or a >= b) and (b == len(parts[1]) or b >= a - 1) for a, b in kept)


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_is_padded_on_the_right_to_its_longest_row():
    batch = collate([{"input_ids": [1, 5], "labels": 1}, {"input_ids": [1, 5, 6], "labels": 0}], pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 5, 9], [1, 5, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_regression_labels_are_float32_also_where_they_are_whole():
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (4, 0)]
    encoded, _ = encode(rows, STSB, PLAIN, 64)
    labels = collate([encoded[0], encoded[1]], PAD)["labels"]
    assert labels.dtype == torch.float32 and labels.tolist() == [4.0, 0.0]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), min_size=1, max_size=8), st.integers(0, 99))
def test_the_rows_of_a_batch_are_those_that_went_in(rows, pad_id):
    batch = collate([{"input_ids": ids} for ids in rows], pad_id)
    assert sorted(batch) == ["attention_mask", "input_ids"]
    mask = batch["attention_mask"].bool()
    assert [ids[kept].tolist() for ids, kept in zip(batch["input_ids"], mask, strict=True)] == rows
    assert batch["input_ids"].shape == (len(rows), max(map(len, rows)))
    assert batch["input_ids"][~mask].eq(pad_id).all()


def test_the_side_of_padding_moves_a_row_and_changes_nothing_else():
    features = [{"input_ids": [2, 5, 6]}, {"input_ids": [2]}]
    left, right = (collate(features, pad_id=0, side=side) for side in ("left", "right"))
    assert left["input_ids"].tolist() == [[2, 5, 6], [0, 0, 2]]
    assert right["input_ids"].tolist() == [[2, 5, 6], [2, 0, 0]]
    assert [row[mask.bool()].tolist() for row, mask in zip(*left.values(), strict=True)] == [[2, 5, 6], [2]]
