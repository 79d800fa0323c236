"""Texts in, vectors, logits and ranks out: the same whatever the batch, in the order given, one BOS a row."""

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from torch import nn

from gemma_encoder import (
    GemmaEncoder,
    GemmaEncoderForRanking,
    GemmaEncoderForSequenceClassification,
    GemmaEncoderForTokenClassification,
    InputError,
    embed,
    predict,
    rank,
)
from gemma_encoder.inference import CPU_SLOTS, SHOWN_FROM, evaluating, in_batches, like_length
from gemma_encoder.tasks import encode, get_task
from gemma_encoder.tokens import token_ids

TEXTS = ["A plane is taking off.", "Yes", "It rains, and it rains, and it rains again.", "A", "Who is it?"]
PAIRS = [("A plane is taking off.", "An air plane."), ("No.", "Yes, it is."), ("x", "y")]
PAD, BOS, EOS = 0, 2, 1


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer


@pytest.fixture
def adapted(tiny_decoder, tokenizer):
    """Function `(kind, **settings)`: a model whose vocabulary is that of the tokenizer and whose logits differ."""

    def make(kind=GemmaEncoderForSequenceClassification, **settings):
        model = kind.from_decoder(tiny_decoder(vocab_size=len(tokenizer), max_position_embeddings=256), **settings)
        for parameter in getattr(model, "head", nn.Module()).parameters():
            nn.init.normal_(parameter, std=0.3)
        return model

    return make


def alone(text):
    """The row of one text, made by hand from its bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    shown = "".join(piece for piece, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text))
    return torch.tensor([[BOS, *(3 + alphabet.index(character) for character in shown)]])


# what comes out


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("unpadded", [True, False])
@torch.no_grad()
def test_predict_gives_each_text_its_logits_in_order(adapted, tokenizer, batch_size, unpadded):
    model = adapted(num_labels=3, unpadded=unpadded).train()
    logits = predict(model, tokenizer, TEXTS, batch_size=batch_size)
    assert model.training, "the mode it was in"
    expected = torch.cat([model.eval()(alone(text)).logits for text in TEXTS])
    torch.testing.assert_close(logits, expected, atol=5e-6, rtol=0)
    assert expected.std(dim=0).min() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("pooling", ["mean", "last", "kv-probe"])
@torch.no_grad()
def test_embed_gives_each_text_its_pooled_vector_in_order(adapted, tokenizer, batch_size, pooling):
    for kind in (GemmaEncoder, GemmaEncoderForSequenceClassification):
        model = adapted(kind, pooling=pooling)
        encoder = model if kind is GemmaEncoder else model.encoder
        vectors = embed(model, tokenizer, TEXTS, batch_size=batch_size)
        expected = torch.cat([encoder.eval()(alone(text)).pooler_output for text in TEXTS])
        torch.testing.assert_close(vectors, expected, atol=5e-6, rtol=0)


@torch.no_grad()
def test_rank_sorts_the_scores_of_query_and_passage(adapted, tokenizer):
    model = adapted(GemmaEncoderForRanking)
    order = rank(model, tokenizer, "Who?", TEXTS, batch_size=2)
    scores = torch.stack([model.eval()(alone(f"Who? {text}")[None]).logits[0, 0] for text in TEXTS])
    assert [index for index, _ in order] == scores.argsort(descending=True).tolist() != list(range(5))
    torch.testing.assert_close(
        torch.tensor([score for _, score in order]), scores.sort(descending=True).values, atol=5e-6, rtol=0
    )


def test_equal_scores_keep_the_order_of_the_passages(adapted, tokenizer):
    model = adapted(GemmaEncoderForRanking)
    nn.init.zeros_(model.head.out.weight)
    assert [index for index, _ in rank(model, tokenizer, "Who?", TEXTS * 3, batch_size=4)] == list(range(15))


def test_bfloat16_answers_come_as_float32(adapted, tokenizer):
    model = adapted(num_labels=2, dtype=torch.bfloat16)
    assert predict(model, tokenizer, TEXTS).dtype == embed(model, tokenizer, TEXTS).dtype == torch.float32


def test_no_texts_give_no_answers(adapted, tokenizer):
    model = adapted(num_labels=3)
    assert embed(model, tokenizer, []).shape == (0, 32)
    assert predict(model, tokenizer, []).shape == (0, 3)
    assert rank(adapted(GemmaEncoderForRanking), tokenizer, "Who?", []) == []


@pytest.mark.parametrize("kind", [np.array, iter, tuple])
def test_any_kind_of_list_will_do(adapted, tokenizer, kind):
    model = adapted(GemmaEncoderForRanking)
    for answer in (embed, predict):
        assert torch.equal(answer(model, tokenizer, kind(TEXTS)), answer(model, tokenizer, TEXTS))
        assert len(answer(model, tokenizer, kind([]))) == 0
    assert rank(model, tokenizer, "Who?", kind(TEXTS)) == rank(model, tokenizer, "Who?", TEXTS)
    with pytest.raises(InputError, match="texts 'passage' is one text; valid: a list"):
        rank(model, tokenizer, "Who?", "passage")


def test_vectors_come_although_the_configuration_asks_for_tuples(adapted, tokenizer):
    model = adapted()
    expected = embed(model, tokenizer, TEXTS)
    model.config.return_dict = False
    assert torch.equal(embed(model, tokenizer, TEXTS), expected)


def test_every_submodule_is_left_in_the_mode_it_was_in(adapted, tokenizer):
    model = adapted().train()
    model.encoder.backbone.layers[1].eval()
    modes = [module.training for module in model.modules()]
    predict(model, tokenizer, TEXTS)
    assert [module.training for module in model.modules()] == modes

    def fails(ids, mask):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        in_batches(model, [[2, 3]], fails, batch_size=1)
    assert [module.training for module in model.modules()] == modes


def test_a_model_that_threads_evaluate_gets_its_mode_back_from_the_last(adapted):
    model = adapted().train()
    model.encoder.pool = nn.Identity().eval()
    modes = [module.training for module in model.modules()]
    with ThreadPoolExecutor(1) as pool:  # one begins before the other, and ends before it
        first, second = evaluating(model), evaluating(model.encoder)
        first.__enter__()
        pool.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        assert not any(module.training for module in model.encoder.modules())
        pool.submit(second.__exit__, None, None, None).result()
    assert [module.training for module in model.modules()] == modes


def test_rows_of_like_length_share_a_batch(adapted):
    shapes = []

    def output(ids, mask):
        shapes.append(tuple(ids.shape))
        return mask.sum(dim=1)

    lengths = [9, 1, 8, 2, 9, 1]
    assert in_batches(adapted(), [[5] * n for n in lengths], output, batch_size=2).tolist() == lengths
    assert shapes == [(2, 1), (2, 8), (2, 9)]


@given(st.lists(st.integers(1, 40), min_size=1), st.integers(1, 200))
def test_batches_of_like_length_hold_every_row_once_and_no_more_slots_than_asked(lengths, slots):
    batches = like_length(lengths, slots)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    widths = [[lengths[row] for row in batch] for batch in batches]
    assert list(itertools.chain.from_iterable(widths)) == sorted(lengths)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= slots for batch in widths)


def test_on_a_cpu_a_batch_has_no_more_slots_than_pay(adapted):
    seen = []
    in_batches(adapted(), [[5] * 9] * 200, lambda ids, mask: seen.append(ids.numel()) or ids[:, 0], batch_size=200)
    assert sum(seen) == 9 * 200
    assert max(seen) == CPU_SLOTS // 9 * 9


@pytest.mark.parametrize(("batches", "shown"), [(SHOWN_FROM - 1, False), (SHOWN_FROM, True)])
def test_a_long_job_says_how_far_it_is_and_a_short_one_does_not(adapted, tokenizer, capsys, batches, shown):
    predict(adapted(), tokenizer, ["ab"] * batches, batch_size=1)
    assert (f"predicting: {batches} of {batches}" in capsys.readouterr().err) == shown


# rows


def rows_of(model, tokenizer, texts, **settings):
    """The token-id rows that the model was given, shortest first."""
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    embed(model, tokenizer, texts, batch_size=1, **settings)
    rows = [row[real.bool()].tolist() for batch in seen for row, real in zip(*batch, strict=True)]
    return sorted(rows, key=len)


@pytest.mark.parametrize("texts", [TEXTS, PAIRS])
def test_one_bos_stands_in_front_of_every_row(adapted, tokenizer, texts):
    assert tokenizer(*PAIRS[0]).input_ids.count(BOS) == 2, "the template of the tokenizer doubles it"
    for row in rows_of(adapted(GemmaEncoder), tokenizer, texts):
        assert row[0] == BOS
        assert not {BOS, PAD, EOS} & set(row[1:])


def test_typed_special_tokens_are_text(adapted, tokenizer):
    (row,) = rows_of(adapted(GemmaEncoder), tokenizer, ["<bos><eos> <pad>"])
    assert not {BOS, PAD, EOS} & set(row[1:])
    assert tokenizer.decode(row[1:]) == "<bos><eos> <pad>"


def test_rows_are_those_of_fine_tuning(adapted, tokenizer):
    """The columns of the checkpoint stand before the texts, as a task puts them there."""
    task = get_task("mrpc")
    rows = [{"sentence1": first, "sentence2": second} for first, second in PAIRS]
    encoded = sorted(encode(rows, task, tokenizer, 200)[0]["input_ids"], key=len)
    model = adapted(GemmaEncoder, text_columns=task.text_columns)
    assert rows_of(model, tokenizer, PAIRS) == encoded
    assert rows_of(adapted(GemmaEncoder), tokenizer, PAIRS, columns=task.text_columns) == encoded
    plain = rows_of(adapted(GemmaEncoder, text_columns=task.text_columns), tokenizer, PAIRS, columns=())
    assert tokenizer.decode(plain[0]) == "<bos>x y"
    assert plain == rows_of(adapted(GemmaEncoder), tokenizer, PAIRS)


def test_truncation_is_asked_for_counted_and_keeps_both_texts(adapted, tokenizer):
    model = adapted(GemmaEncoder)
    long = ("a" * 40, "b" * 5)
    with pytest.raises(InputError, match=r"row 1 .* has 47 tokens, the limit is 20; 1 of 2 rows"):
        embed(model, tokenizer, [("a", "b"), long], max_length=20)
    with pytest.warns(UserWarning, match="1 of 2 rows were cut to 20 tokens"):
        embed(model, tokenizer, [("a", "b"), long], max_length=20, truncate=True)
    ids, cut = token_ids([long], tokenizer, max_length=20, truncate=True)
    assert (tokenizer.decode(ids[0]), cut) == ("<bos>" + "a" * 13 + " bbbbb", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(model, tokenizer, [long], max_length=47, truncate=True)


# bad input


@pytest.mark.parametrize(
    ("texts", "settings", "says"),
    [
        (["fine", ""], {}, r"row 1 is ''; valid: texts that are not empty"),
        (["fine", " \n"], {}, r"row 1 is ' \\n'; valid: texts that are not empty"),
        ([("a", "")], {}, r"row 0 is \('a', ''\); valid: texts that are not empty"),
        ([("a", None)], {}, r"row 0 is \('a', None\); valid: texts that are not empty"),
        ([()], {}, r"row 0 is \(\); valid"),
        ("one text", {}, r"texts 'one text' is one text; valid: a list"),
        ({"d1": "one", "d2": "other"}, {}, r"texts in a dict; valid: a list of texts"),
        (pd.DataFrame({"premise": ["a"], "hypothesis": ["b"]}), {}, r"texts in a DataFrame; valid: a list of texts"),
        (Dataset.from_dict({"text": ["a"]}), {}, r"texts in a Dataset; valid: a list of texts"),
        ([{"premise": "a", "hypothesis": "b"}], {}, r"row 0 is a dict; valid: a text, or a list or tuple of texts"),
        (["a", {"a", "b"}], {}, r"row 1 is a set; valid: a text, or a list or tuple of texts"),
        (["a"], {"columns": ("premise", "hypothesis")}, r"row 0 has 1 texts; valid: 2 \(premise, hypothesis\)"),
        ([("a", "b")], {"columns": ("sentence",)}, r"row 0 has 2 texts; valid: 1 \(sentence\)"),
        (["fine", None], {}, r"row 1 is None; valid: texts that are not empty"),
        (["fine", float("nan")], {}, r"row 1 is nan; valid: texts that are not empty"),
        (["a"], {"batch_size": 0}, r"batch_size 0 is not valid; valid: an integer >= 1"),
        (["a"], {"batch_size": "2"}, r"batch_size '2' is not valid; valid: an integer >= 1"),
        (["a"], {"max_length": 9.5}, r"max_length 9.5 is not valid; valid for these texts: 2 or more"),
        (["a"], {"columns": "text"}, r"columns 'text' is one name; valid: a list of names"),
        (["a"], {"max_length": 1, "truncate": True}, r"max_length 1 is not valid; valid for these texts: 2 or more"),
    ],
)
def test_bad_input_is_named(adapted, tokenizer, texts, settings, says):
    with pytest.raises(InputError, match=says):
        predict(adapted(), tokenizer, texts, **settings)


def test_rows_of_a_wrong_length_have_the_number_that_the_caller_knows(adapted, tokenizer):
    texts = ["one two three four five six"] * 40
    texts[37] = "one"
    with pytest.raises(InputError, match=r"^rows \[37\] hold fewer than 5 tokens"):
        predict(adapted(pooling="last-5"), tokenizer, texts)
    model = adapted()
    texts[3] = "one " * (model.encoder.config.decoder.max_position_embeddings + 1)
    with pytest.raises(InputError, match=r"^rows \[3\] hold more tokens than max_position_embeddings"):
        embed(model, tokenizer, texts, max_length=10**6)
    with pytest.raises(InputError, match=r"^rows \[0, 1, 2, 3, 4, 5, 6, 7\] and 32 more hold fewer than 99 tokens"):
        embed(adapted(pooling="first-99"), tokenizer, ["one"] * 40)


def test_models_without_the_answer_are_named(adapted, tokenizer):
    with pytest.raises(InputError, match="a GemmaEncoder has no answer for a row; valid: a classifier"):
        predict(adapted(GemmaEncoder), tokenizer, TEXTS)
    with pytest.raises(InputError, match="a GemmaEncoderForTokenClassification has no answer for a row"):
        predict(adapted(GemmaEncoderForTokenClassification), tokenizer, TEXTS)
    with pytest.raises(InputError, match="a model of 3 labels gives no score to rank by; valid: num_labels 1"):
        rank(adapted(num_labels=3), tokenizer, "Who?", TEXTS)
