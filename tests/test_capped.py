"""The attention of Gemma 2 written out: values and gradients of the formula, in which autograd walks every step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import apply_rotary_pos_emb

import gemma_encoder.attention as attention_module
import gemma_encoder.gemma2 as gemma2_module
import gemma_encoder.model as model_module
import gemma_encoder.visibility as visibility_module
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.attention import formula
from gemma_encoder.capped import CappedAttention, rotated, written_out
from gemma_encoder.dropout import Dropout
from gemma_encoder.families import FAMILIES, attention_modules, layers
from gemma_encoder.gemma2 import Gemma2Attention, go_on_alone
from gemma_encoder.masks import and_masks, bidirectional, causal, window
from gemma_encoder.visibility import look, look_from

HEADS, DIM, SOFTCAP, SCALING = (4, 2), 6, 1.5, 0.7


def states_of(tokens, dtype=torch.float64):
    """Queries, keys and values of so many tokens, `(tokens, heads, dim)`."""
    return [
        torch.randn(tokens, heads, DIM, dtype=dtype, requires_grad=True) for heads in (HEADS[0], HEADS[1], HEADS[1])
    ]


def by_formula(states, seen, dropout):
    """The same by `formula`, group by group, through autograd."""
    opened = seen.open(*(each.transpose(0, 1)[None] for each in states))
    rows = [
        formula(*parts, group.biases[0], SCALING, SOFTCAP, dropout)[0]
        for group, *parts in zip(seen.groups, *opened, strict=True)
    ]
    return seen.close(rows)[0]


def batch(lengths):
    """Which slots of rows of these lengths hold a token."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    how=st.sampled_from([(0.0, 1), (0.0, 20), (0.0, math.inf), (0.4, math.inf)]),
)
def test_values_and_gradients_are_those_of_the_formula(lengths, how):
    """With noise in one group only: that of several is drawn at once here, group by group there."""
    rate, cost = how
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility_module, "GROUP", cost)
        seen = look(batch(lengths), [and_masks(bidirectional, window(3))], torch.float64, heads=HEADS)
    dropout = Dropout(rate).train()
    states, probe = states_of(sum(lengths)), torch.randn(sum(lengths), HEADS[0], DIM, dtype=torch.float64)
    results = []
    for call in (
        lambda: CappedAttention.apply(*states, None, seen, 0, SCALING, SOFTCAP, dropout),
        lambda: by_formula(states, seen, dropout),
    ):
        torch.manual_seed(3)
        output = call()
        results.append((output, *torch.autograd.grad(output, states, probe)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)  # the formula takes its softmax in float32


def test_gradients_are_those_of_differences():
    seen = look(batch([3, 1, 4]), [causal], torch.float64, heads=HEADS)
    angle = torch.randn(8, 1, DIM // 2, dtype=torch.float64)
    cos, sin = angle.cos().repeat(1, 1, 2), torch.cat([-angle.sin(), angle.sin()], dim=-1)

    def attended(*states):
        torch.manual_seed(5)
        rotations = (cos, sin), (cos, sin)
        return CappedAttention.apply(*states, rotations, seen, 0, SCALING, SOFTCAP, Dropout(0.3).train())

    assert torch.autograd.gradcheck(attended, states_of(8))


def test_a_second_gradient_is_refused_because_it_would_be_wrong():
    seen, states = look(batch([3]), [causal], torch.float64, heads=HEADS), states_of(3)
    output = CappedAttention.apply(*states, None, seen, 0, SCALING, SOFTCAP, Dropout(0.0))
    (first,) = torch.autograd.grad(output.square().sum(), states[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_states_are_rotated_as_by_the_decoder_and_back():
    states, angle = torch.randn(5, 3, 8), torch.randn(1, 5, 4)
    cos, sin = angle.cos().repeat(1, 1, 2), angle.sin().repeat(1, 1, 2)
    theirs, _ = apply_rotary_pos_emb(states.transpose(0, 1)[None], states.transpose(0, 1)[None], cos, sin)
    signed = cos.transpose(0, 1), torch.cat([-angle.sin(), angle.sin()], dim=-1).transpose(0, 1)
    ours = rotated(states, signed)
    torch.testing.assert_close(ours, theirs[0].transpose(0, 1))
    torch.testing.assert_close(rotated(ours, signed, -1), states)


@pytest.mark.parametrize("cost", [1, math.inf])
@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("mask", [causal, bidirectional, and_masks(bidirectional, window(2))])
def test_tokens_that_ask_alone_get_what_they_get_among_all(monkeypatch, mask, spare, cost):
    monkeypatch.setattr(visibility_module, "GROUP", cost)
    real = batch([4, 2, 6])
    read = torch.tensor([2, 3, 4, 5, 10, 11])  # the last two of every row
    seen = look(real, [mask], torch.float64, heads=HEADS, spare=spare)
    last = look_from(seen, read)
    query, key, value = states_of(12 + spare)
    whole = CappedAttention.apply(query, key, value, None, seen, 0, SCALING, SOFTCAP, Dropout(0.0))[read]
    asking = query[last.read]
    alone = CappedAttention.apply(asking, key, value, None, last, 0, SCALING, SOFTCAP, Dropout(0.0))[: len(read)]
    torch.testing.assert_close(alone, whole)
    probe = torch.randn_like(whole)
    gradients = [torch.autograd.grad(output, (query, key, value), probe) for output in (alone, whole)]
    torch.testing.assert_close(*gradients)
    assert last.read[: len(read)].tolist() == read.tolist() and len(last.read) == 6 + 2 * (spare > 0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last", "first-2"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal", "bidirectional-last-2", "prefix-3"])
def test_a_model_has_the_gradients_that_it_has_without(
    tiny_decoder, make_batch, monkeypatch, attention, pooling, checkpointing
):
    rates = {"attention_dropout": 0.0, "ffn_dropout": 0.0}
    model = GemmaEncoderForSequenceClassification.from_decoder(
        tiny_decoder(), attention=attention, pooling=pooling, **rates
    ).train()
    ids, mask = make_batch([9, 2, 12, 5], "left")
    labels, results = torch.tensor([0, 1, 1, 0]), []
    ran, apply = [], CappedAttention.apply
    monkeypatch.setattr(CappedAttention, "apply", lambda *args: ran.append(len(args[0])) or apply(*args))
    for plainly in (False, True):
        if plainly:
            for module in (gemma2_module, attention_module, model_module):
                monkeypatch.setattr(module, "written_out", lambda *args: False)
        elif checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        loss = model(ids, mask, labels=labels).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters())])
    read = {"mean": 28, "last": 4, "first-2": 8}[pooling]
    assert ran[:4] == [28, 28, 28, read]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_where_it_runs(tiny_decoder, make_batch, monkeypatch):
    states, real = torch.zeros(1, 3, 4), torch.ones(1, 3).bool()
    seen, dropout = look(real, [causal], torch.float32), Dropout(0.1)
    assert written_out(states, 2.0, seen, dropout)
    assert not written_out(states, None, seen, dropout)
    assert not written_out(states, 2.0, seen, nn.Dropout(0.1)), "its noise is not known"
    assert not written_out(states.bfloat16(), 2.0, seen, dropout)
    assert not written_out(states.to("meta"), 2.0, seen, dropout)
    assert not written_out(states, 2.0, look(real, [causal], torch.float32, unpadded=False), dropout)
    assert not written_out(states, 2.0, look(real, [causal], torch.float32, return_weights=True), dropout)
    with torch.autocast("cpu", torch.bfloat16):
        assert not written_out(states, 2.0, seen, dropout)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_only_gemma2_has_it(tiny_decoder, family):
    modules = attention_modules(GemmaEncoder.from_decoder(tiny_decoder(family)).backbone)
    assert {isinstance(module, Gemma2Attention) for module in modules} == {family == "gemma2"}


@pytest.mark.parametrize("other", [None, "layer", "attention"])
def test_a_last_layer_of_another_class_runs_as_it_is(tiny_decoder, make_batch, other):
    decoder = tiny_decoder()
    layer = decoder.base_model.layers[-1]
    module = {"layer": layer, "attention": layer.self_attn}.get(other)
    if module is not None:
        module.__class__ = type("Other", (type(module),), {})
    model, batch = GemmaEncoder.from_decoder(decoder, pooling="last").eval(), make_batch([9, 2, 12, 5])
    assert go_on_alone(layers(model.backbone)[-1]) == (other is None)
    only, whole = model(*batch, only_pooled=True).pooler_output, model(*batch).pooler_output
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kept", [[0, 1, 3], [0, 2, 3], [1, 2, 3], [3, 2, 1, 0]])
def test_the_last_layer_is_the_one_that_stands_last(tiny_decoder, make_batch, kept):
    decoder = tiny_decoder()
    decoder.base_model.layers = nn.ModuleList(decoder.base_model.layers[at] for at in kept)
    decoder.config.num_hidden_layers = len(kept)
    decoder.config.layer_types = [decoder.config.layer_types[at] for at in kept]
    model, batch = GemmaEncoder.from_decoder(decoder, pooling="last").eval(), make_batch([9, 2, 12, 5])
    only, whole = model(*batch, only_pooled=True).pooler_output, model(*batch).pooler_output
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)
