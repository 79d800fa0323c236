"""Attention without padding is the same mathematics: states, loss and every gradient, and rows never mix."""

import functools
import itertools
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gemma_encoder.attention as attention_module
import gemma_encoder.visibility as visibility_module
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.attention import (
    choose_biases,
    encoder_attention,
    formula,
    new_adaptation,
    path,
    paths_taken,
)
from gemma_encoder.dropout import add_dropout
from gemma_encoder.families import FAMILIES, attention_modules
from gemma_encoder.gemma2 import AttentionSublayer
from gemma_encoder.masks import and_masks, bidirectional, causal, window
from gemma_encoder.visibility import look, split

NONE = nn.Dropout(0.0)


@pytest.fixture(scope="module", autouse=True)
def a_group_for_every_length():
    """Rows as short as those here would all share a group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility_module, "GROUP", 1)
        yield


@pytest.fixture(scope="module")
def both_paths(tiny_decoder):
    """Function `(family, attention, dtype)`: the same classifier running unpadded and padded, in evaluation mode."""

    def make(family="gemma2", attention="bidirectional", dtype=torch.float32, **overrides):
        models = []
        for unpadded in (True, False):
            torch.manual_seed(2)
            model = GemmaEncoderForSequenceClassification.from_decoder(
                tiny_decoder(family, **overrides), attention=attention, unpadded=unpadded, num_labels=3, dtype=dtype
            )
            for parameter in model.head.parameters():
                nn.init.normal_(parameter, std=0.3)
            models.append(model.eval())
        return models

    return make


def step(model, ids, mask):
    """Logits, states, loss and the gradient of every parameter."""
    model.zero_grad()
    output = model(ids, mask, torch.arange(len(ids), device=ids.device) % 3)
    output.loss.backward()
    states = model.encoder(ids, mask).last_hidden_state
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"logits": output.logits, "states": states, "loss": output.loss} | gradients


def assert_same(one, other, tolerance=1e-5):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


LENGTHS = {
    "mixed": [9, 1, 5, 12],
    "one token each": [1, 1, 1],
    "full": [7, 7],
    "single row": [6],
    "one and all": [1, 11],
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_unpadded_equals_padded_on_gemma2(both_paths, make_batch, attention, lengths, side):
    unpadded, padded = both_paths(attention=attention)  # soft-cap that bites, local window of 4
    batch = make_batch(lengths, side)
    there, here = step(padded, *batch), step(unpadded, *batch)
    assert_same(here, there)
    assert all(here[name].abs().max() > 1e-3 for name in here if "mlp" in name), "a gradient too small to compare"


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_unpadded_equals_padded_in_every_family(both_paths, make_batch, family, attention):
    unpadded, padded = both_paths(family, attention)
    batch = make_batch([9, 1, 12, 5], "left")
    assert_same(step(unpadded, *batch), step(padded, *batch))


@pytest.mark.parametrize("attention", ["bidirectional-last-2", "causal-last-1", "prefix-3", "window-3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_unpadded_equals_padded_under_every_plan_and_with_checkpointing(
    both_paths, make_batch, attention, checkpointing
):
    unpadded, padded = both_paths(attention=attention)
    batch = make_batch([9, 1, 12, 5], "left")
    there = step(padded, *batch)
    if checkpointing:
        unpadded.train().activation_checkpointing_enable()
        for module in unpadded.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    assert_same(step(unpadded, *batch), there)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    side=st.sampled_from(["left", "right"]),
    spare=st.integers(0, 3),
)
def test_unpadded_equals_padded_for_any_lengths(both_paths, make_batch, lengths, side, spare):
    unpadded, padded = both_paths()
    batch = make_batch(lengths, side, spare)
    assert len(look(batch[1].bool(), [causal], torch.float32).groups) == len(set(lengths))
    assert_same(step(unpadded, *batch), step(padded, *batch))


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_bfloat16_paths_agree_and_stay_near_float32(both_paths, make_batch, family):
    batch = make_batch([9, 1, 5, 12])
    exact = step(both_paths(family)[0], *batch)
    unpadded, padded = (step(model, *batch) for model in both_paths(family, dtype=torch.bfloat16))
    for name, value in exact.items():
        exactly = name in ("loss", "logits") or name.startswith("head.")
        assert unpadded[name].dtype == (torch.float32 if exactly else torch.bfloat16)
        # measured: at most 0.04 for what goes forward and 0.14 for a gradient, the same on either path
        allowed = 0.07 if name in ("logits", "states", "loss") else 0.25
        assert unpadded[name].isfinite().all(), name
        assert (unpadded[name].float() - value).norm() <= allowed * value.norm(), name
        # measured: at most 0.02 where the CPU has bfloat16 arithmetic, 0.037 where it has not
        assert (unpadded[name] - padded[name]).norm() <= 0.05 * value.norm(), name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_row_alone_equals_the_row_in_any_batch(both_paths, make_batch, attention, side):
    lengths = [9, 1, 5, 12]
    for model in both_paths(attention=attention):
        ids, mask = make_batch(lengths, side, spare=2)
        with torch.no_grad():
            together = model(ids, mask).logits
            for row, length in enumerate(lengths):
                tokens = ids[row][mask[row].bool()][None]
                assert tokens.shape == (1, length)
                torch.testing.assert_close(model(tokens).logits[0], together[row], atol=2e-6, rtol=0)
            torch.testing.assert_close(model(ids.flip(0), mask.flip(0)).logits.flip(0), together, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_changing_one_row_leaves_every_bit_of_the_others(both_paths, make_batch, family):
    for model in both_paths(family):
        ids, mask = make_batch([6, 4, 6], "left")
        with torch.no_grad():
            before = model.encoder(ids, mask).last_hidden_state
            ids[1, -1] = (ids[1, -1] + 7) % 97
            after = model.encoder(ids, mask).last_hidden_state
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not torch.equal(before[1], after[1])


def test_ids_in_pads_change_nothing_and_states_there_are_zero(both_paths, make_batch):
    for model in both_paths():
        ids, mask = make_batch([6, 4, 2], "right", spare=1)
        with torch.no_grad():
            before = model.encoder(ids, mask).last_hidden_state
            after = model.encoder(ids.where(mask.bool(), 33), mask).last_hidden_state
        assert torch.equal(before, after)
        assert (before[mask == 0] == 0).all()
        assert (before[mask == 1] != 0).any(dim=-1).all()


def test_the_soft_cap_bites_and_reaches_both_paths(both_paths, make_batch):
    batch = make_batch([9, 5])
    for capped, free in zip(both_paths(), both_paths(attn_logit_softcapping=None), strict=True):
        with torch.no_grad():
            states = capped.encoder(*batch).last_hidden_state, free.encoder(*batch).last_hidden_state
        assert (states[0] - states[1]).abs().max() > 1e-2


def test_a_window_narrower_than_the_rows_changes_the_states(both_paths, make_batch):
    batch = make_batch([9, 5])
    for local, wide in zip(both_paths(), both_paths(sliding_window=32), strict=True):
        with torch.no_grad():
            states = local.encoder(*batch).last_hidden_state, wide.encoder(*batch).last_hidden_state
        assert (states[0] - states[1]).abs().max() > 1e-2


def test_compiled_equals_eager_and_new_lengths_compile_nothing(both_paths, make_batch, graphs):
    """With the code that torch generates, where a C++ compiler is there; else with all but that code."""
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "aot_eager"
    print(f"torch.compile with {backend}")
    model = both_paths("gemma2", num_hidden_layers=1)[0]  # soft-cap and window
    compiled, counts = torch.compile(model, backend=backend, dynamic=True), []
    for lengths in ([5, 2, 7], [9, 1, 4], [3, 3, 2], [8, 11, 5]):
        plain, fast = (run(*make_batch(lengths), torch.tensor([0, 1, 2])) for run in (model, compiled))
        torch.testing.assert_close(fast.logits, plain.logits, atol=1e-6, rtol=0)
        torch.testing.assert_close(fast.loss, plain.loss, atol=1e-6, rtol=0)
        gradients = [torch.autograd.grad(output.loss, list(model.parameters())) for output in (plain, fast)]
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
        counts.append(graphs())
    assert counts[0] > 0 and len(set(counts)) == 1, counts


@pytest.mark.parametrize("family", ["gemma2", "llama"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("unpadded", [True, False])
def test_what_runs_is_what_the_table_says(
    tiny_decoder, make_batch, monkeypatch, family, rate, return_weights, unpadded
):
    model, ran = GemmaEncoder.from_decoder(tiny_decoder(family), attention_dropout=rate, unpadded=unpadded).train(), []
    ways = {
        "formula": (attention_module, "formula"),
        "sdpa": (F, "scaled_dot_product_attention"),
        "written out": (AttentionSublayer, "apply"),
    }
    for name, (owner, function) in ways.items():
        spy = functools.partial(lambda name, call, *args, **kw: ran.append(name) or call(*args, **kw), name)
        monkeypatch.setattr(owner, function, functools.partial(spy, getattr(owner, function)))
    model(*make_batch([5, 3]), output_attentions=return_weights)
    softcap = model.config.decoder.attn_logit_softcapping if family == "gemma2" else None
    written_out = family == "gemma2" and unpadded and not return_weights
    assert set(ran) == {"written out" if written_out else "formula" if return_weights else path(softcap).split()[0]}
    assert path(softcap) == ("formula (soft-cap 2)" if family == "gemma2" else "sdpa")
    groups = 2 if unpadded and not (return_weights or written_out) else 1
    assert len(ran) == 4 * groups, "one call a layer and group, or a layer"


def test_before_the_first_pass_nothing_ran(tiny_decoder):
    backbone = tiny_decoder("llama")
    assert paths_taken(backbone) == []
    GemmaEncoder.from_decoder(backbone)  # measures what tokens see
    assert paths_taken(backbone) == ["sdpa"]


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "bidirectional-last-2", "prefix-3"])
def test_both_ways_of_computing_give_the_same_states_and_gradients(tiny_decoder, make_batch, attention):
    """Asking for the weights takes the plain formula where sdpa would run; windows and packing included."""
    model = GemmaEncoder.from_decoder(tiny_decoder("mistral"), attention=attention).eval()
    batch = make_batch([9, 1, 6], "left")
    states = [model(*batch, output_attentions=weights).last_hidden_state for weights in (False, True)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = [torch.autograd.grad(state.sin().mean(), parameters) for state in states]
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients[0]), "a gradient too small to compare"
    assert_same(*(dict(zip(names, each, strict=True)) for each in gradients), tolerance=5e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here; the same is proven on the CPU")
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_on_a_gpu_unpadded_equals_padded_and_the_cpu(both_paths, make_batch, family):
    batch = make_batch([9, 1, 5, 12])
    exact = step(both_paths(family)[0], *batch)
    there = [step(model.cuda(), *(part.cuda() for part in batch)) for model in both_paths(family)]
    there = [{name: value.cpu() for name, value in one.items()} for one in there]
    assert_same(*there)
    assert_same(there[0], exact, tolerance=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here; the same is proven on the CPU")
@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_on_a_gpu_the_first_gradients_are_finite_in_bfloat16(both_paths, make_batch, family):
    batch = [part.cuda() for part in make_batch([9, 1, 5, 12])]
    for model in both_paths(family, dtype=torch.bfloat16):
        assert all(value.isfinite().all() for value in step(model.cuda(), *batch).values())


@given(
    bits=st.lists(st.booleans(), min_size=25, max_size=25),
    scaling=st.floats(0.1, 3.0),
    seed=st.integers(0, 99),
)
def test_the_formula_is_scaled_dot_product_attention(bits, scaling, seed):
    query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(seed))
    may = torch.tensor(bits).reshape(5, 5) | torch.eye(5).bool()
    bias = torch.zeros(5, 5).masked_fill(~may, float("-inf"))
    output, weights = formula(query, key, value, bias, scaling, None, NONE)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=may, scale=scaling)
    torch.testing.assert_close(output, expected)
    assert (weights[..., ~may] == 0).all()


def test_the_soft_cap_worked_by_hand():
    query, key = torch.tensor([[[[1.0]]]]), torch.tensor([[[[3.0], [-1.0], [9.0]]]])
    value, bias = torch.eye(3)[None, None], torch.tensor([0.0, 0.0, float("-inf")])
    output, _ = formula(query, key, value, bias, 2.0, 4.0, NONE)
    seen = [math.exp(4 * math.tanh(2 * score / 4)) for score in (3.0, -1.0)]
    expected = [seen[0] / sum(seen), seen[1] / sum(seen), 0.0]
    torch.testing.assert_close(output[0, 0, 0], torch.tensor(expected))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("cost", [1, math.inf])
def test_opening_and_closing_give_back_the_packed_row(make_batch, monkeypatch, side, cost):
    monkeypatch.setattr(visibility_module, "GROUP", cost)
    _, mask = make_batch([3, 1, 4, 3], side, spare=1)
    seen = look(mask.bool(), [causal], torch.float32, heads=(2, 1))
    packed = torch.randn(1, 2, 11, 5)
    rows, keys, values = seen.open(packed, packed[:, :1], packed[:, 1:])
    assert [part.shape for part in rows] == (
        [(1, 2, 1, 5), (2, 2, 3, 5), (1, 2, 4, 5)] if cost == 1 else [(4, 2, 4, 5)]
    )
    assert torch.equal(seen.close(rows), packed.transpose(1, 2))
    for states, head in ((keys, 0), (values, 1)):
        assert torch.equal(seen.close(states), packed[:, [head, head]].transpose(1, 2))
    assert seen.position_ids.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 2]]
    if cost == 1:
        assert torch.equal(rows[1], torch.stack([packed[0, :, :3], packed[0, :, 8:]]))


def test_groups_worked_by_hand(monkeypatch):
    monkeypatch.setattr(visibility_module, "GROUP", 20)
    assert split([3, 1, 3, 1]) == [[1, 3, 0, 2]]  # 4 * 9 + 20 = 56 in one; 2 * 1 + 2 * 9 + 2 * 20 = 60 in two
    assert split([3, 1, 4, 1, 1, 1]) == [[1, 3, 4, 5], [0, 2]]  # 4 + 32 + 40 = 76; 6 * 16 + 20 = 116 in one
    assert split([7]) == [[0]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 500))
def test_no_groups_cost_less(lengths, price):
    def cost(groups):
        return sum(len(group) * max(lengths[row] for row in group) ** 2 + price for group in groups)

    rows = sorted(range(len(lengths)), key=lengths.__getitem__)
    cuts = [cut for count in range(len(rows)) for cut in itertools.combinations(range(1, len(rows)), count)]
    ways = [[rows[a:b] for a, b in itertools.pairwise((0, *cut, len(rows)))] for cut in cuts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility_module, "GROUP", price)
        found = split(lengths)
    assert sorted(itertools.chain.from_iterable(found)) == sorted(rows)
    assert cost(found) == min(map(cost, ways))


def test_weights_are_one_tensor_whatever_the_lengths(make_batch):
    mask = make_batch([3, 1, 4])[1].bool()
    assert len(look(mask, [causal], torch.float32, return_weights=True).groups) == 1
    assert len(look(mask, [causal], torch.float32, unpadded=False).groups) == 1


@pytest.mark.parametrize("cost", [1, math.inf])
def test_what_is_not_finite_in_one_row_stays_there(both_paths, make_batch, monkeypatch, cost):
    monkeypatch.setattr(visibility_module, "GROUP", cost)
    model, (ids, mask) = both_paths()[0], make_batch([6, 3, 8, 6])
    ids[ids == 50] = 51
    with torch.no_grad():
        whole = model(ids, mask).logits
        model.get_input_embeddings().weight[50] = math.nan
        ids[2, 1] = 50
        broken = model(ids, mask).logits
    assert torch.equal(broken[[0, 1, 3]], whole[[0, 1, 3]])
    assert broken[2].isnan().all()


@pytest.mark.parametrize("softcap", [None, 2.0], ids=["sdpa", "formula"])
def test_dropout_has_its_rate_in_every_group(tiny_decoder, softcap):
    """With equal scores, and as values a column for each token, the output of attention is its weights."""
    backbone, rate, lengths = tiny_decoder("llama"), 0.25, [16] * 40 + [32] * 20
    add_dropout(backbone, rate, 0.0)
    choose_biases(backbone, new_adaptation(backbone), [0] * 4)
    real = torch.arange(32) < torch.tensor(lengths)[:, None]
    seen = look(real, [bidirectional] * 4, torch.float32, heads=(4, 4))
    zeros = torch.zeros(1, 4, sum(lengths), 32)
    values = torch.cat([torch.eye(length, 32) for length in lengths]).expand_as(zeros)
    module = attention_modules(backbone)[0].train()
    weights = encoder_attention(module, zeros, zeros, values, None, 1.0, softcap, seen)[0][0]
    for part, width in zip(weights.split([16 * 40, 32 * 20]), (16, 32), strict=True):
        kept = part[:, :, :width][part[:, :, :width] != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / width / (1 - rate)))
        share = 1 - kept.numel() / (part.shape[0] * 4 * width)
        assert abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) / (part.shape[0] * 4 * width))


def test_layers_with_one_mask_share_one_bias():
    local = and_masks(bidirectional, window(2))
    seen = look(torch.ones(2, 5).bool(), [local, bidirectional, local, bidirectional], torch.float32)
    assert seen.kinds == [0, 1, 0, 1]
    assert [len(group.biases) for group in seen.groups] == [2]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_adapted_decoder_called_outside_of_its_encoder_raises(tiny_decoder, make_batch, family):
    backbone = GemmaEncoder.from_decoder(tiny_decoder(family)).backbone
    with pytest.raises(RuntimeError, match="belongs to a GemmaEncoder"):
        backbone(make_batch([4])[0])


@pytest.mark.parametrize("side", ["right", "left"])
def test_weights_are_over_the_tokens_of_each_row_on_every_path(both_paths, make_batch, side):
    ids, mask = make_batch([3, 6], side, spare=2)
    for model in both_paths("llama"):
        encoder = model.encoder
        plain, open_ = encoder(ids, mask), encoder(ids, mask, output_attentions=True)
        assert plain.attentions is None
        torch.testing.assert_close(open_.last_hidden_state, plain.last_hidden_state)
        assert [layer.shape for layer in open_.attentions] == [(2, 4, 6, 6)] * 4
        alone = encoder(ids[:1][mask[:1].bool()][None], output_attentions=True).attentions
        for layer, expected in zip(open_.attentions, alone, strict=True):
            torch.testing.assert_close(layer[:1, :, :3, :3], expected)
            torch.testing.assert_close(layer[1].sum(-1), torch.ones(4, 6))
            assert (layer[0, :, 3:] == 0).all() and (layer[0, :, :, 3:] == 0).all()
