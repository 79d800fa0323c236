"""Two fused passes are the plain formula with the same kept pairs, to the gradient."""

import sys

import pytest
import torch

from benchmarks.two_pass import kept, two_pass
from gemma_encoder.masks import and_masks, bidirectional, table, window

SCALING, SOFTCAP, HEADS = 0.5, 2.0, 4


def keys_below(batch, head, q, kv):
    """Rows of 12 and of 7 tokens: no token reads beyond the end of its row."""
    return kv < torch.tensor([12, 7])[batch]


@pytest.fixture(autouse=True)
def gradients_without_a_gpu(monkeypatch):
    """torch refuses gradients on a CPU, as it compiles none there; its dense passes compute them anywhere."""
    monkeypatch.setattr(sys.modules["torch.nn.attention.flex_attention"], "_validate_device", lambda *states: None)


def states(width):
    torch.manual_seed(0)
    shapes = ((2, HEADS, width, 16), (2, 2, width, 16), (2, 2, width, 16))
    return [(3 * torch.randn(shape, dtype=torch.float64)).requires_grad_() for shape in shapes]


def plain(query, key, value, visible, rate, seed):
    """The formula as it is written, over a matrix of all pairs."""
    at = torch.meshgrid(*map(torch.arange, (*query.shape[:2], query.shape[2], query.shape[2])), indexing="ij")
    key, value = (each.repeat_interleave(HEADS // 2, dim=1) for each in (key, value))
    scores = SOFTCAP * torch.tanh(query @ key.transpose(2, 3) * SCALING / SOFTCAP)
    weights = scores.masked_fill(~visible(*at), float("-inf")).softmax(dim=-1)
    return (weights * kept(rate, seed, HEADS, query.shape[2])(*at) / (1 - rate)) @ value


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("visible", [bidirectional, window(4), and_masks(bidirectional, keys_below)])
def test_output_and_gradient_are_those_of_the_formula(visible, rate):
    parts, seed = states(12), torch.tensor(3)
    found = two_pass(*parts, visible, SCALING, SOFTCAP, rate, seed)
    expected = plain(*parts, visible, rate, seed)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    direction = torch.randn_like(found)
    pairs = [torch.autograd.grad(output, parts, direction) for output in (found, expected)]
    torch.testing.assert_close(*pairs, atol=1e-10, rtol=1e-10)


def test_a_query_all_of_whose_keys_are_dropped_reads_nothing():
    parts, seed = states(2), torch.tensor(1)
    seen = table(kept(0.9, seed, 1, 2), torch.arange(2)[None])
    assert not seen.any(dim=-1).all(), "the seed drops no whole row: the test would show nothing"
    found = two_pass(*parts, bidirectional, SCALING, SOFTCAP, 0.9, seed)
    torch.testing.assert_close(found, plain(*parts, bidirectional, 0.9, seed), atol=1e-10, rtol=1e-10)
    found.sum().backward()
    assert all(part.grad.isfinite().all() for part in parts)


def test_the_kept_share_is_the_rate_and_neighbours_are_independent():
    at = torch.meshgrid(*map(torch.arange, (4, HEADS, 128, 128)), indexing="ij")
    draws = [kept(0.1, torch.tensor(seed), HEADS, 128)(*at).double() for seed in (0, 1)]
    assert all(draw.mean().item() == pytest.approx(0.9, abs=3e-3) for draw in draws)  # 5 sigma of 2^18 pairs
    first = draws[0]
    pairs = {
        "seeds": draws,
        "keys": [first[..., 1:], first[..., :-1]],
        "queries": [first[:, :, 1:], first[:, :, :-1]],
        "heads": [first[:, 1:], first[:, :-1]],
        "rows": [first[1:], first[:-1]],
    }
    for name, pair in pairs.items():
        correlation = torch.corrcoef(torch.stack([each.flatten() for each in pair]))[0, 1].abs()
        assert correlation < 0.015, name


def test_the_mean_of_many_draws_is_attention_without_dropout():
    rows = [part[:1].detach().expand(512, -1, -1, -1) for part in states(8)]  # each row has pairs of its own
    draws = two_pass(*rows, bidirectional, SCALING, SOFTCAP, 0.3, torch.tensor(0))
    exact = two_pass(*(row[:1] for row in rows), bidirectional, SCALING, SOFTCAP, 0.0, torch.tensor(0))[0]
    error = (draws.mean(dim=0) - exact).abs() / (draws.std(dim=0) / 512**0.5)
    assert error.mean() < 1.0  # of a standard error; 0.8 is expected
