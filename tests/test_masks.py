"""Masks against boolean tables drawn by hand, and `reach` against a search through the graph."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder import masks
from gemma_encoder.errors import InputError
from gemma_encoder.visibility import look, lowest


def drawn(picture):
    """A table as drawn: x where the row's token reads the column's."""
    return [[mark == "x" for mark in line] for line in picture.split()]


CAUSAL = "x...  xx..  xxx.  xxxx"
FULL = "xxxx  xxxx  xxxx  xxxx"


@pytest.mark.parametrize(
    ("mask", "picture"),
    [
        (masks.causal, CAUSAL),
        (masks.bidirectional, FULL),
        (masks.window(1), "x...  .x..  ..x.  ...x"),
        (masks.window(2), "xx..  xxx.  .xxx  ..xx"),
        (masks.window(3), "xxx..  xxxx.  xxxxx  .xxxx  ..xxx"),
        (masks.window(4), FULL),
        (masks.prefix(1), CAUSAL),
        (masks.prefix(2), "xx..  xx..  xxx.  xxxx"),
        (masks.prefix(3), "xxx.  xxx.  xxx.  xxxx"),
        (masks.prefix(4), FULL),
        (masks.and_masks(masks.causal, masks.window(1)), "x...  .x..  ..x.  ...x"),
        (masks.and_masks(masks.causal, masks.window(2)), "x...  xx..  .xx.  ..xx"),
        (masks.and_masks(masks.causal, masks.window(3)), "x....  xx...  xxx..  .xxx.  ..xxx"),
        (masks.or_masks(masks.causal, masks.window(2)), "xx..  xxx.  xxxx  xxxx"),
        (masks.and_masks(masks.bidirectional, masks.causal, masks.window(2)), "x...  xx..  .xx.  ..xx"),
        (masks.or_masks(masks.window(1), masks.window(2), masks.window(3)), "xxx..  xxxx.  xxxxx  .xxxx  ..xxx"),
    ],
)
def test_mask_is_the_drawn_table(mask, picture):
    table = drawn(picture)
    assert masks.square(mask, len(table)).tolist() == table


@given(width=st.integers(1, 6), length=st.integers(1, 9))
def test_masks_obey_the_laws_of_de_morgan(width, length):
    one, other = masks.causal, masks.window(width)
    neither = masks.not_mask(masks.or_masks(one, other))
    apart = masks.and_masks(masks.not_mask(one), masks.not_mask(other))
    assert torch.equal(masks.square(neither, length), masks.square(apart, length))
    assert torch.equal(masks.square(masks.not_mask(one), length), ~masks.square(one, length))
    assert torch.equal(masks.square(masks.not_mask(masks.not_mask(other)), length), masks.square(other, length))


@given(width=st.integers(1, 6), length=st.integers(1, 9))
def test_window_reaches_exactly_width_minus_one_to_each_side(width, length):
    table = masks.square(masks.window(width), length)
    for i in range(length):
        for j in range(length):
            assert table[i, j] == (abs(i - j) < width)


def test_reach_does_not_depend_on_the_default_precision():
    expected = masks.reach([masks.causal, masks.window(2)], 4)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(masks.reach([masks.causal, masks.window(2)], 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("width", [0, -1, 2.0, True, "3", None])
def test_a_window_that_is_no_width_is_refused(width):
    with pytest.raises(InputError, match="valid: an integer >= 1"):
        masks.window(width)


def test_a_mask_of_ones_own_may_differ_from_row_to_row():
    both = masks.and_masks(masks.causal, lambda batch, head, q, kv: kv < torch.tensor([3, 1])[batch])
    table = masks.table(both, torch.arange(3).expand(2, 3))
    assert table[0, 0].tolist() == drawn("x..  xx.  xxx")
    assert table[1, 0].tolist() == drawn("x..  x..  x..")


@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_padding_moves_a_row_but_not_what_its_tokens_see(attention, unpadded):
    real = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()
    (mask,) = masks.layer_masks(attention, [2])
    seen = look(real, [mask], torch.float32, unpadded)
    local = {"causal": "x....  xx...  .xx..  ..xx.  ...xx", "bidirectional": "xx...  xxx..  .xxx.  ..xxx  ...xx"}
    expected = torch.tensor(drawn(local[attention]))
    starts, met = (real.sum(1).cumsum(0) - real.sum(1)).tolist(), []
    numbers = torch.arange(real.sum()).view(1, 1, -1, 1) if unpadded else real[:, None, :, None]
    for group, tokens in zip(seen.groups, seen.open(numbers, numbers, numbers)[0], strict=True):
        for at, bias in enumerate(group.biases[0]):
            row = starts.index(tokens[at, 0, 0]) if unpadded else at
            slots = torch.arange(real[row].sum()) if unpadded else real[row].nonzero().flatten()
            table, wanted = bias[0] == 0, expected[: len(slots), : len(slots)]
            assert torch.equal(table[slots][:, slots], wanted)
            assert table[slots].sum() == wanted.sum(), "a token reads a slot without a token"
            met.append(row)
        assert set(group.biases[0].unique().tolist()) == {0.0, lowest(torch.float32)}
    assert sorted(met) == [0, 1, 2, 3]


def test_positions_count_the_tokens_of_each_row_from_zero():
    real = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0]]).bool()
    assert look(real, [], torch.float32, True).position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    padded = look(real, [], torch.float32, False).position_ids
    assert [padded[i][real[i]].tolist() for i in range(3)] == [[0, 1, 2], [0, 1], [0, 1]]


@given(
    length=st.integers(1, 6),
    bits=st.lists(st.integers(0, 2**36 - 1), min_size=1, max_size=4),
)
def test_reach_is_what_a_search_through_the_layers_finds(length, bits):
    tables = [torch.tensor([[bool(b >> (6 * i + j) & 1) for j in range(length)] for i in range(length)]) for b in bits]
    stack = [lambda batch, head, q, kv, table=table: table[q, kv] for table in tables]
    known = [{i} for i in range(length)]
    for table, measured in zip(tables, masks.reach(stack, length), strict=True):
        known = [set.union(known[i], *(known[j] for j in range(length) if table[i, j])) for i in range(length)]
        assert [set(row.nonzero().flatten().tolist()) for row in measured] == known


def test_layers_keep_their_own_window_and_share_masks():
    plan = masks.layer_masks("causal", [2, None, 2, 3])
    assert plan[0] is plan[2]
    local, everything, _, wider = (masks.square(mask, 4).tolist() for mask in plan)
    assert local == drawn("x...  xx..  .xx.  ..xx")
    assert everything == drawn(CAUSAL)
    assert wider == drawn("x...  xx..  xxx.  .xxx")


@pytest.mark.parametrize(
    ("attention", "layers"),
    [
        ("causal", "ccc"),
        ("bidirectional", "bbb"),
        ("bidirectional-last-1", "ccb"),
        ("bidirectional-first-1", "bcc"),
        ("causal-first-2", "ccb"),
        ("causal-last-2", "bcc"),
        ("bidirectional-last-0", "ccc"),
        ("causal-first-3", "ccc"),
    ],
)
def test_a_plan_gives_every_layer_its_table(attention, layers):
    tables = {"c": (CAUSAL, "x...  xx..  .xx.  ..xx"), "b": (FULL, "xx..  xxx.  .xxx  ..xx")}
    for local_layers in ("keep", "open"):
        plan = masks.layer_masks(attention, [2, None, 2], local_layers)
        for mask, layer, local in zip(plan, layers, (True, False, True), strict=True):
            assert masks.square(mask, 4).tolist() == drawn(tables[layer][local and local_layers == "keep"])


@pytest.mark.parametrize(("attention", "mask"), [("prefix-2", masks.prefix(2)), ("window-3", masks.window(3))])
def test_a_mask_with_a_number_holds_for_all_layers_inside_their_windows(attention, mask):
    everywhere, local = masks.layer_masks(attention, [None, 2])
    assert torch.equal(masks.square(everywhere, 6), masks.square(mask, 6))
    assert torch.equal(masks.square(local, 6), masks.square(mask, 6) & masks.square(masks.window(2), 6))


@pytest.mark.parametrize(
    ("attention", "says"),
    [
        ("bidirectional-last-3", "attention 'bidirectional-last-3' is for 3 layers; this decoder has 2"),
        ("causal-first-9", "attention 'causal-first-9' is for 9 layers; this decoder has 2"),
        ("window-0", "window width 0 is not valid; valid: an integer >= 1"),
        ("prefix-0", "prefix width 0 is not valid; valid: an integer >= 1"),
        ("window-N", "attention 'window-N' needs a number in place of N"),
        ("window--1", "unknown attention 'window--1'"),
    ],
)
def test_a_plan_that_does_not_fit_names_both(attention, says):
    with pytest.raises(InputError) as refused:
        masks.layer_masks(attention, [None] * 2)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["bidirectonal", "both", "", None, 1])
def test_an_unknown_attention_lists_the_valid_ones(name):
    with pytest.raises(InputError, match=r"valid: bidirectional, .*causal") as refused:
        masks.layer_masks(name, [None])
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("unpadded", [True, False])
def test_a_slot_that_may_read_nothing_makes_no_nan(dtype, unpadded):
    real = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    scores = torch.linspace(-100, 100, 5, dtype=dtype)
    for bias in look(real, [masks.window(2)], dtype, unpadded, return_weights=True).groups[0].biases:
        weights = torch.softmax(scores + bias, dim=-1, dtype=torch.float32)
        assert weights.isfinite().all()
        assert (weights[0, 0, 0] > 0).tolist() == [True, False, False, False, False]
