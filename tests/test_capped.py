"""The attention of Gemma 2 written out: values and gradients of the formula, in which autograd walks every step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gemma_encoder.visibility as visibility_module
from gemma_encoder.attention import formula
from gemma_encoder.capped import CappedAttention, Setting, attention_written_out
from gemma_encoder.dropout import Dropout
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
    setting = Setting(seen, 0, SCALING, SOFTCAP, dropout)
    for call in (lambda: CappedAttention.apply(*states, setting), lambda: by_formula(states, seen, dropout)):
        torch.manual_seed(3)
        output = call()
        results.append((output, *torch.autograd.grad(output, states, probe)))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)  # the formula takes its softmax in float32


def test_gradients_are_those_of_differences():
    seen = look(batch([3, 1, 4]), [causal], torch.float64, heads=HEADS)
    setting = Setting(seen, 0, SCALING, SOFTCAP, Dropout(0.3).train())

    def attended(*states):
        torch.manual_seed(5)
        return CappedAttention.apply(*states, setting)

    assert torch.autograd.gradcheck(attended, states_of(8))


def test_a_second_gradient_is_refused_because_it_would_be_wrong():
    seen, states = look(batch([3]), [causal], torch.float64, heads=HEADS), states_of(3)
    output = CappedAttention.apply(*states, Setting(seen, 0, SCALING, SOFTCAP, Dropout(0.0)))
    (first,) = torch.autograd.grad(output.square().sum(), states[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


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
    everyone, few = (Setting(each, 0, SCALING, SOFTCAP, Dropout(0.0)) for each in (seen, last))
    whole = CappedAttention.apply(query, key, value, everyone)[read]
    alone = CappedAttention.apply(query[last.read], key, value, few)[: len(read)]
    torch.testing.assert_close(alone, whole)
    probe = torch.randn_like(whole)
    gradients = [torch.autograd.grad(output, (query, key, value), probe) for output in (alone, whole)]
    torch.testing.assert_close(*gradients)
    assert last.read[: len(read)].tolist() == read.tolist() and len(last.read) == 6 + 2 * (spare > 0)


def test_what_comes_back_otherwise_than_it_was_saved_gives_the_same_gradient():
    """In other storage, behind other values, or column by column: as hooks on saved tensors may give it."""
    seen, states = look(batch([3, 1, 4]), [causal], torch.float64, heads=HEADS), states_of(8)
    setting, found = Setting(seen, 0, SCALING, SOFTCAP, Dropout(0.0)), []
    ways = (
        lambda saved: saved,
        lambda saved: torch.cat([saved.new_ones(5), saved.flatten()])[5:].view(saved.shape),
        lambda saved: saved.t().contiguous().t() if saved.dim() == 2 else saved,
    )
    for unpack in ways:
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, unpack):
            output = CappedAttention.apply(*states, setting)
        found.append(torch.autograd.grad(output.sin().sum(), states))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_where_it_runs():
    states, real = torch.zeros(1, 3, 4), torch.ones(1, 3).bool()
    seen, dropout = look(real, [causal], torch.float32), Dropout(0.1)
    assert attention_written_out(states, 2.0, seen, dropout)
    assert not attention_written_out(states, None, seen, dropout)
    assert not attention_written_out(states, 2.0, seen, nn.Dropout(0.1)), "its noise is not known"
    assert not attention_written_out(states.bfloat16(), 2.0, seen, dropout)
    assert not attention_written_out(states.to("meta"), 2.0, seen, dropout)
    assert not attention_written_out(states, 2.0, look(real, [causal], torch.float32, unpadded=False), dropout)
    assert not attention_written_out(states, 2.0, look(real, [causal], torch.float32, return_weights=True), dropout)
    with torch.autocast("cpu", torch.bfloat16):
        assert not attention_written_out(states, 2.0, seen, dropout)
