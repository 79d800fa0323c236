"""Settings that are tested one by one elsewhere, together: pads, plans, windows, checkpointing, torch.compile."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import gemma_encoder.visibility as visibility_module
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.compiled import compile_layers
from gemma_encoder.families import ffn_modules
from gemma_encoder.verify import check_padding, check_visibility, influence_matrix, layer_matrix

STILL = {"attention_dropout": 0.0, "ffn_dropout": 0.0}
LENGTHS = [9, 1, 5, 12]
LABELS = torch.tensor([0, 2, 1, 2])


@pytest.fixture(autouse=True)
def a_group_for_every_length(monkeypatch):
    """Rows as short as those here would all share a group."""
    monkeypatch.setattr(visibility_module, "GROUP", 1)


@pytest.fixture
def classifier(tiny_decoder):
    """Function `(family, **settings)`: a classifier whose pooler and head matter; equal weights at every call."""

    def make(family="gemma2", shape=(), **settings):
        torch.manual_seed(2)
        model = GemmaEncoderForSequenceClassification.from_decoder(
            tiny_decoder(family, **dict(shape)), num_labels=3, **STILL | settings
        )
        for name, parameter in model.named_parameters():
            if "backbone." not in name:
                nn.init.normal_(parameter, std=0.3)
        return model.train()

    return make


def step(model, ids, mask):
    """Logits, loss and the gradient of every parameter."""
    output = model(ids, mask, LABELS)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    names = [name.removeprefix("_orig_mod.") for name, _ in model.named_parameters()]
    return {"logits": output.logits, "loss": output.loss} | dict(zip(names, gradients, strict=True))


def assert_same(one, other, tolerance=1e-5):
    """Equal within `tolerance`, relative to the largest value of a tensor where that is over 1."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        atol = tolerance * max(1.0, other[name].abs().max().item())
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


# unpadded equals padded

FAMILIES = ("gemma2", "gemma3_text", "llama", "mistral", "qwen3", "gpt_neox", "modernbert-decoder")
PLANS = ("bidirectional", "causal", "bidirectional-first-1", "bidirectional-last-2")
PLANS += ("causal-first-3", "causal-last-1", "prefix-3", "window-3")
SWITCHES = tuple(itertools.product(("keep", "open"), ("left", "right"), (False, True)))
POOLINGS = ("mean", "last", "first", "query-probe", "kv-probe")
# every family with every plan; beside them the rest goes round, so that every pair of values meets
CASES = [
    (family, plan, *SWITCHES[(i + j) % 8], POOLINGS[(i + 2 * j) % 5])
    for (i, family), (j, plan) in itertools.product(enumerate(FAMILIES), enumerate(PLANS))
]


def test_every_pair_of_settings_meets():
    values = FAMILIES, PLANS, ("keep", "open"), ("left", "right"), (False, True), POOLINGS
    for one, other in itertools.combinations(range(len(values)), 2):
        assert {(case[one], case[other]) for case in CASES} == set(itertools.product(values[one], values[other]))


@pytest.mark.parametrize(("family", "attention", "local_layers", "side", "checkpointing", "pooling"), CASES)
def test_unpadded_equals_padded(classifier, make_batch, family, attention, local_layers, side, checkpointing, pooling):
    """Forward, loss and every gradient; the padded side never checkpoints, so that is compared too."""
    settings = {"attention": attention, "local_layers": local_layers, "pooling": pooling}
    unpadded, padded = (classifier(family, unpadded=unpadded, **settings) for unpadded in (True, False))
    ran = []
    ffn_modules(unpadded.encoder.backbone)[0].register_forward_pre_hook(lambda *_: ran.append(1))
    if checkpointing:
        unpadded.activation_checkpointing_enable()
    batch = make_batch(LENGTHS, side, spare=1)
    here, there = step(unpadded, *batch), step(padded, *batch)
    assert len(ran) == 1 + checkpointing, "checkpointing did not run the layer again, or ran unasked"
    here["states"], there["states"] = (model.encoder(*batch).last_hidden_state for model in (unpadded, padded))
    assert_same(here, there)
    assert all(here[name].abs().max() > 1e-3 for name in here if "mlp" in name), "a gradient too small to compare"


# torch.compile


def compiled(model):
    """The model under torch.compile, without generated code: what can go wrong here is what torch traces."""
    return torch.compile(model, backend="eager")


TWO_LAYERS = {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("family", "side", "checkpointing", "settings"),
    [
        ("llama", "left", False, {"unpadded": False}),
        ("gemma2", "left", True, {"pooling": "last"}),
        ("gemma2", "right", False, {"dtype": torch.bfloat16}),
        ("gpt_neox", "right", False, {"attention": "bidirectional-last-1", "pooling": "kv-probe"}),
    ],
)
def test_compiled_equals_eager(graphs, classifier, make_batch, family, side, checkpointing, settings):
    model = classifier(family, TWO_LAYERS, **settings)
    if checkpointing:
        model.activation_checkpointing_enable()
    batch, fast = make_batch(LENGTHS, side, spare=1), compiled(model)
    there, here = step(model, *batch), step(fast, *batch)
    assert graphs() > 0
    assert_same(here, there)


@pytest.fixture
def layerwise(graphs, compile_with):
    """`compile_layers` without generated code, unless a `backend` makes some; nothing may break a graph."""

    def compiled_layers(model, backend="eager"):
        compile_with(backend)
        compile_layers(model)

    yield compiled_layers
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize(
    ("family", "checkpointing", "settings"),
    [
        ("gemma2", False, {"pooling": "last"}),
        ("gemma2", True, {"unpadded": False}),
        ("llama", False, {"attention": "bidirectional-last-3"}),
        ("gpt_neox", False, {"pooling": "kv-probe"}),
    ],
)
def test_layers_are_compiled_once(layerwise, graphs, classifier, make_batch, family, checkpointing, settings):
    """Six layers share a graph, under any masks and with whatever the last one had hooks for."""
    model = classifier(family, {"num_hidden_layers": 6}, **settings)
    if checkpointing:
        model.activation_checkpointing_enable()
    batches = [make_batch(lengths) for lengths in (LENGTHS, [3, 8, 4, 4], [11, 2, 6, 5])]
    expected = [step(model, *batch) for batch in batches]
    layerwise(model)
    for batch, plain in zip(batches, expected, strict=True):
        assert_same(step(model, *batch), plain)
    assert graphs() == 1


def test_no_kind_of_pass_is_left_uncompiled(layerwise, graphs, classifier, make_batch):
    """torch compiles the code of a layer a limited number of times, eight if nothing else is said."""
    model, counts = classifier("gemma2"), []
    layerwise(model)
    for training, lengths in itertools.product((True, False), (LENGTHS, [7])):
        with torch.set_grad_enabled(training):
            model.train(training)(*make_batch(lengths))
        counts.append(graphs())
    assert all(later > before for before, later in itertools.pairwise([0, *counts])), counts


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_layers_are_proven_and_looked_into(layerwise, classifier, make_batch, backend):
    model, batch = classifier("gemma2", attention="bidirectional-last-2"), make_batch(LENGTHS)
    ids = torch.arange(3, 9)
    with torch.no_grad():
        expected = *model.encoder.layer_states(*batch), layer_matrix(model, ids)
        layerwise(model, backend=backend)
        found = *model.encoder.layer_states(*batch), layer_matrix(model, ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    check_visibility(model)
    for padding in ("none", "left"):
        check_padding(model, padding)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_compiled_model_is_not_compiled(layerwise, classifier, make_batch, copied):
    model, batch = classifier("gemma2", TWO_LAYERS), make_batch(LENGTHS)
    plain = step(model, *batch)
    layerwise(model)
    again = copied(model)
    assert len(again.encoder.look(batch[1].bool()).groups) > len(model.encoder.look(batch[1].bool()).groups) == 1
    assert_same(step(again, *batch), plain)


def test_noise_is_replayed_where_compiled_layers_compute_their_activations_again(layerwise, classifier, make_batch):
    model = classifier("gemma2", TWO_LAYERS, attention_dropout=0.3, ffn_dropout=0.3)
    layerwise(model, backend="aot_eager")  # which keeps the state of the generator
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        gradients.append(step(model, *make_batch(LENGTHS)))
    assert_same(*gradients)


@pytest.mark.parametrize("rates", [(0.3, 0.0), (0.0, 0.3)], ids=["attention", "ffn"])
def test_dropout_acts_when_compiled(graphs, classifier, make_batch, rates):
    model = classifier("gemma2", {"num_hidden_layers": 1}, attention_dropout=rates[0], ffn_dropout=rates[1])
    batch, fast = make_batch([9, 7, 5, 12]), compiled(model)  # what a row of one token reads may well be kept whole
    noisy = [fast(*batch).logits for _ in range(2)]
    assert graphs() > 0
    quiet = model.eval()(*batch).logits
    for one, other in itertools.combinations([*noisy, quiet], 2):
        assert (one - other).abs().amax(dim=1).min() > 1e-3, "a row without noise"


# local layers


def test_local_layers_are_open_or_windowed_on_a_live_model(tiny_decoder, make_batch):
    """Two layers, the first local with a window of 3: what moves behind it and behind both."""
    ids = make_batch([8])[0][0]
    reached = {}
    for local_layers in ("keep", "open"):
        model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=3), local_layers=local_layers)
        reached[local_layers] = influence_matrix(model, ids)
    assert reached["open"].all()
    near = (torch.arange(8)[:, None] - torch.arange(8)).abs() < 3
    assert torch.equal(reached["keep"][0], near)
    assert reached["keep"][1:].all(), "the second layer is global"


@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral", "modernbert-decoder"])
def test_open_layers_equal_windows_wider_than_the_rows(tiny_decoder, make_batch, family, attention, unpadded):
    """And a row no longer than its window is read as a whole, while one token more makes a difference."""

    def states(width, local_layers, lengths=(9, 1, 5)):
        decoder = tiny_decoder(family, sliding_window=width)
        settings = {"attention": attention, "local_layers": local_layers, "unpadded": unpadded}
        with torch.no_grad():
            return GemmaEncoder.from_decoder(decoder, **settings).eval()(*make_batch(lengths)).last_hidden_state

    open_ = states(4, "open")
    torch.testing.assert_close(states(64, "keep"), open_, atol=0, rtol=0)
    torch.testing.assert_close(states(9, "keep"), open_, atol=0, rtol=0)  # distances below 9, and 8 is the largest
    assert (states(8, "keep") - open_).abs().max() > 1e-4
    assert (states(4, "keep") - open_).abs().max() > 1e-2


# several encoders on one decoder


def test_encoders_that_share_a_decoder_keep_their_own_masks(tiny_decoder, make_batch):
    decoder, batch = tiny_decoder("gemma2"), make_batch(LENGTHS)
    plans = [{"attention": "causal"}, {"local_layers": "open"}, {"attention": "bidirectional-last-2"}]
    alone = [GemmaEncoder.from_decoder(copy.deepcopy(decoder), **plan).eval() for plan in plans]
    shared = [GemmaEncoder.from_decoder(decoder, **plan).eval() for plan in plans]
    for _ in range(2):
        for one, other in zip(shared, alone, strict=True):
            assert torch.equal(one(*batch).last_hidden_state, other(*batch).last_hidden_state)


def test_an_encoder_that_takes_over_a_decoder_uses_its_own_masks(tiny_decoder, make_batch):
    first, second = (
        GemmaEncoder.from_decoder(tiny_decoder("gemma2"), local_layers=kind).eval() for kind in ("open", "keep")
    )
    second.backbone.load_state_dict(first.backbone.state_dict())
    batch = make_batch(LENGTHS)
    states = [model(*batch).last_hidden_state for model in (first, second)]
    second.backbone = first.backbone
    for model, expected in zip((first, second, first), (*states, states[0]), strict=True):
        assert torch.equal(model(*batch).last_hidden_state, expected)
