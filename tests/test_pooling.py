"""Poolers: hand-worked vectors, and properties that hold for every batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_encoder import pooling
from gemma_encoder.errors import InputError

DIM = 8
PROBES = ("query-probe", "kv-probe")
NAMES = ("mean", "first", "last", "first-2", "last-2", *PROBES)
SHAPES = {  # one latent is for the query probe alone: a softmax over a single key is 1, whatever the token
    "2 heads": {"heads": 2},
    "2 latents": {"latents": 2},
    "7 latents": {"latents": 7},
    "no projections": {"projections": False},
    "8 heads, 3 latents, no projections": {"heads": 8, "latents": 3, "projections": False},
}
BATCHES = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(2, 6), min_size=1, max_size=4),
        "spare": st.integers(0, 3),
        "seed": st.integers(0, 99),
    }
)
POOLERS = {name: (name, {}) for name in NAMES}
POOLERS |= {f"{name}, {shape}": (name, SHAPES[shape]) for name in PROBES for shape in SHAPES}
POOLERS |= {"query-probe, 1 latent": ("query-probe", {"latents": 1})}
every_pooler = pytest.mark.parametrize("name", POOLERS)
every_shape = pytest.mark.parametrize("shape", [{}, *SHAPES.values()], ids=["4 heads, 4 latents", *SHAPES])


def make_pooler(name, **shape):
    torch.manual_seed(3)
    name, settings = POOLERS[name]
    pool = pooling.get_pooler(name, DIM, **settings | shape)
    for parameter in getattr(pool, "parameters", list)():
        torch.nn.init.normal_(parameter)  # a probe starts as a mean; here its weights must matter
    return pool


def make_rows(lengths, side, spare, seed, filler=0.0):
    """States and mask of a padded batch; the same seed gives the same tokens on either side."""
    source, width = torch.Generator().manual_seed(seed), max(lengths) + spare
    hidden, mask = torch.full((len(lengths), width, DIM), filler), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(width - length, width)
        hidden[row, where] = torch.randn(length, DIM, generator=source)
        mask[row, where] = 1
    return hidden, mask


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (pooling.mean, [[3.0, 4.0], [9.0, 10.0]]),
        (pooling.first, [[1.0, 2.0], [9.0, 10.0]]),
        (pooling.last, [[5.0, 6.0], [9.0, 10.0]]),
    ],
)
def test_vectors_worked_by_hand(pool, expected):
    hidden = torch.arange(1.0, 13.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 1], [0, 1, 0]])
    assert pool(hidden, mask).tolist() == expected


def test_first_k_and_last_k_by_hand_and_a_k_beyond_the_row_is_named():
    hidden, mask = torch.tensor([[1.0, 2, 4, 8], [9, 16, 32, 9]])[..., None], torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]])
    assert pooling.get_pooler("first-2", 1)(hidden, mask).flatten().tolist() == [1.5, 24]
    assert pooling.get_pooler("last-2", 1)(hidden, mask).flatten().tolist() == [6, 24]
    for name in ("first-3", "last-3"):
        with pytest.raises(
            InputError, match=r"rows \[1\] hold fewer than 3 tokens, the shortest 2; valid: longer rows, or a smaller k"
        ):
            pooling.get_pooler(name, 1)(hidden, mask)


def torch_attention(pool, query, key, value, pads=None):
    """Output before the mean, and weights, of torch's own attention with the projections of `pool`."""
    attention = torch.nn.MultiheadAttention(DIM, pool.heads, bias=False, batch_first=True)
    own = {name: linear.weight for name, linear in pool.project.items()}
    parts = [own.get(name, torch.eye(DIM)) for name in ("query", "key", "value", "output")]
    attention.load_state_dict({"in_proj_weight": torch.cat(parts[:3]), "out_proj.weight": parts[3]})
    return attention(query, key, value, key_padding_mask=pads, average_attn_weights=False)


def check_shape(pool, heads=4, latents=4, projections=True):
    """The weights that a pooler of this shape has, and no others."""
    weights = {name: tuple(weight.shape) for name, weight in pool.named_parameters()}
    matrices = {f"project.{name}.weight": (DIM, DIM) for name in ("query", "key", "value", "output")}
    assert weights == {"latents": (latents, DIM)} | (matrices if projections else {})
    assert pool.heads == heads


@every_shape
@given(rows=BATCHES)
def test_the_query_probe_is_attention_of_torch_and_its_weights_sum_to_one(shape, rows):
    pool, (hidden, mask) = make_pooler("query-probe", **shape), make_rows(side="left", **rows)
    check_shape(pool, **shape)
    latents = pool.latents.expand(len(hidden), -1, -1)
    states, weights = torch_attention(pool, latents, hidden, hidden, mask == 0)
    torch.testing.assert_close(pool(hidden, mask), states.mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pool.weights(hidden, mask), weights, atol=1e-6, rtol=1e-4)
    assert (pool.weights(hidden, mask).movedim(-1, 1)[mask == 0] == 0).all()
    torch.testing.assert_close(pool.weights(hidden, mask).sum(dim=-1), torch.ones_like(weights[..., 0]))


@every_shape
@given(rows=BATCHES)
def test_the_kv_probe_is_attention_of_torch_and_its_weights_sum_to_one(shape, rows):
    pool, (hidden, mask) = make_pooler("kv-probe", **shape), make_rows(side="right", **rows)
    check_shape(pool, **shape)
    latents = pool.latents.expand(len(hidden), -1, -1)
    states, weights = torch_attention(pool, hidden, latents, latents)
    real = mask[..., None]
    expected = (states * real).sum(dim=1) / real.sum(dim=1)
    torch.testing.assert_close(pool(hidden, mask), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pool.weights(hidden, mask), weights * mask[:, None, :, None], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("name", "mode"), [("mean", "mean"), ("first", "cls"), ("last", "lasttoken")])
@given(rows=BATCHES, side=st.sampled_from(["left", "right"]), filler=st.sampled_from([0.0, 7.0]))
def test_the_vector_is_that_of_sentence_transformers(name, mode, rows, side, filler):
    """Its version 6.2 finds first and last token on either side; what it gets wrong are pads of NaN, in its mean."""
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    hidden, mask = make_rows(side=side, filler=filler, **rows)
    theirs = modules.Pooling(DIM, pooling_mode=mode)({"token_embeddings": hidden, "attention_mask": mask})
    torch.testing.assert_close(make_pooler(name)(hidden, mask), theirs["sentence_embedding"], atol=1e-6, rtol=1e-5)


@every_pooler
@given(BATCHES, st.randoms(use_true_random=False))
def test_where_the_pads_stand_does_not_matter(name, rows, random):
    pool, (hidden, mask) = make_pooler(name), make_rows(side="right", filler=7.0, **rows)
    columns = list(range(mask.shape[1]))
    random.shuffle(columns)
    # a new place for every slot, after which the tokens of a row still follow one another in their order
    mixed = mask[:, columns]
    order = torch.stack([torch.cat([(row == 1).nonzero(), (row == 0).nonzero()]).flatten() for row in mixed])
    moved = torch.full_like(hidden, 7.0).scatter(1, order[..., None].expand_as(hidden), hidden)
    torch.testing.assert_close(pool(moved, mixed), pool(hidden, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"heads": 3}, "pooling_heads 3 does not divide the model's width; valid: a divisor of 8"),
        ({"heads": 0}, "pooling_heads 0 does not divide"),
        ({"latents": 0}, "pooling_latents 0 is too small; valid: an integer >= 1"),
    ],
)
def test_a_probe_of_another_shape_is_refused(settings, says):
    with pytest.raises(InputError, match=says):
        pooling.get_pooler("query-probe", DIM, **settings)


def test_order_comes_from_the_mask_and_holes_are_skipped():
    hidden = torch.arange(1.0, 6.0)[None, :, None]
    mask = torch.tensor([[0, 1, 0, 1, 0]])
    assert pooling.first(hidden, mask).item() == 2
    assert pooling.last(hidden, mask).item() == 4
    assert pooling.mean(hidden, mask).item() == 3


@every_pooler
@given(rows=BATCHES)
def test_left_padding_equals_right_padding(name, rows):
    pool = make_pooler(name)
    torch.testing.assert_close(pool(*make_rows(side="left", **rows)), pool(*make_rows(side="right", **rows)))


@every_pooler
@given(rows=BATCHES, side=st.sampled_from(["left", "right"]))
def test_a_row_alone_equals_the_row_in_a_batch(name, rows, side):
    pool = make_pooler(name)
    hidden, mask = make_rows(side=side, **rows)
    together = pool(hidden, mask)
    for row, length in enumerate(rows["lengths"]):
        alone = hidden[row][mask[row].bool()][None]
        assert alone.shape[1] == length
        torch.testing.assert_close(pool(alone, torch.ones(1, length)), together[row : row + 1])


@every_pooler
@given(rows=BATCHES, side=st.sampled_from(["left", "right"]), filler=st.sampled_from([float("nan"), 1e30, 7.0]))
def test_what_stands_in_pads_changes_nothing(name, rows, side, filler):
    pool = make_pooler(name)
    clean, dirty = (pool(*make_rows(side=side, filler=fill, **rows)) for fill in (0.0, filler))
    assert torch.equal(clean, dirty)


@every_pooler
@given(rows=BATCHES, side=st.sampled_from(["left", "right"]))
def test_inputs_are_left_as_they_were(name, rows, side):
    hidden, mask = make_rows(side=side, **rows)
    kept = hidden.clone(), mask.clone()
    make_pooler(name)(hidden, mask)
    assert torch.equal(hidden, kept[0])
    assert torch.equal(mask, kept[1])


@every_pooler
@given(rows=BATCHES, side=st.sampled_from(["left", "right"]), filler=st.sampled_from([0.0, float("nan")]))
def test_no_gradient_flows_to_pads(name, rows, side, filler):
    hidden, mask = make_rows(side=side, filler=filler, **rows)
    hidden.requires_grad_()
    make_pooler(name)(hidden, mask).sin().sum().backward()
    assert (hidden.grad[mask == 0] == 0).all()
    assert hidden.grad.isfinite().all()
    assert (hidden.grad[mask == 1] != 0).any()


@every_pooler
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_vector_has_the_type_of_the_states(name, dtype):
    hidden, mask = make_rows([3, 5], "right", 0, 0)
    pool = make_pooler(name)
    if isinstance(pool, torch.nn.Module):
        pool = pool.to(dtype)
    assert pool(hidden.to(dtype), mask).dtype == dtype


def test_the_mean_of_a_long_row_does_not_overflow_in_half_precision():
    hidden = torch.full((1, 1000, 1), 300.0, dtype=torch.float16)
    assert pooling.mean(hidden, torch.ones(1, 1000)).item() == 300


@every_pooler
def test_a_row_of_only_padding_is_an_error_that_names_the_row(name):
    hidden, mask = make_rows([3, 4, 5], "right", 0, 0)
    mask[1] = 0
    with pytest.raises(InputError, match=r"rows \[1\]"):
        make_pooler(name)(hidden, mask)


@pytest.mark.parametrize("name", ["mean", "first", "last", "query-probe", "kv-probe"])
def test_a_row_of_one_token_is_pooled(name):
    hidden, mask = make_rows([1, 4], "left", 1, 0)
    vector = make_pooler(name)(hidden, mask)
    assert vector.isfinite().all()
    if "probe" not in name:
        assert torch.equal(vector[0], hidden[0, -1])


@pytest.mark.parametrize("name", ["max", "", "first-0", "last--1", "mean-2", "first-x", "First"])
def test_an_unknown_pooler_lists_the_valid_ones(name):
    with pytest.raises(InputError, match="mean") as refused:
        pooling.get_pooler(name, DIM)
    assert repr(name) in str(refused.value)
