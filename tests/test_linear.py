"""Linear layers multiplied by oneDNN: torch's own products and gradients, and rows that nobody reads beside a batch."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Gemma2ForSequenceClassification

import gemma_encoder.linear as linear_module
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.exchange import exchange
from gemma_encoder.linear import Linear, Product, onednn_pays, spare
from gemma_encoder.lora import add_lora

LENGTHS = [30, 9, 1, 41, 17]  # 98 tokens: enough for oneDNN, and six short of a number that is met again

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def processor(monkeypatch):
    """Function `(family)`: that of the processor from then on, where every product is one for oneDNN, 26 at first."""
    monkeypatch.setattr(linear_module, "LEAST", dict.fromkeys(linear_module.LEAST, 0))

    def choose(family):
        monkeypatch.setattr(linear_module, "_family", lambda: family)

    choose(26)
    return choose


@pytest.fixture
def products(monkeypatch):
    """How many products ran in oneDNN."""
    ran, product = [], linear_module.product
    monkeypatch.setattr(linear_module, "product", lambda *args: ran.append(1) or product(*args))
    return ran


@pytest.mark.parametrize("shape", [(70, 24, 8), (2, 40, 8, 24), (1, 64, 16, 16)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [set(), {"weight"}, {"states"}, {"bias"}])
def test_products_and_gradients_are_those_of_the_formula(processor, shape, bias, frozen):
    *rows, inner, outer = shape
    layer, states = Linear(inner, outer, bias), torch.randn(*rows, inner, requires_grad="states" not in frozen)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name not in frozen)
    exact = [each.detach().double().requires_grad_(each.requires_grad) for each in (states, *layer.parameters())]
    expected = nn.functional.linear(*exact)
    found, probe = layer(states), torch.randn(*rows, outer)
    assert "Product" in type(found.grad_fn).__name__
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    wanted = [at for at, each in enumerate(exact) if each.requires_grad]
    here = torch.autograd.grad(found, [(states, *layer.parameters())[at] for at in wanted], probe)
    there = torch.autograd.grad(expected, [exact[at] for at in wanted], probe.double())
    for mine, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-4, rtol=1e-5)


def test_a_second_gradient_is_refused_because_it_would_be_wrong(processor):
    layer, states = Linear(4, 4), torch.randn(3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(layer(states).square().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_it_is_left_where_it_does_not_pay(processor, products, monkeypatch):
    monkeypatch.setattr(linear_module, "LEAST", {26: 8 * 8 * 6})
    layer, states = Linear(8, 8), torch.randn(6, 8)
    layer(states)
    assert len(products) == 1
    layer(states[1:])  # too few tokens
    layer.bfloat16()(states.bfloat16())
    layer.double()(states.double())
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(states).dtype == torch.bfloat16
    processor(None)
    layer(states)
    assert len(products) == 1
    processor(26)
    assert onednn_pays(8 * 8 * 6, layer.weight)
    assert not onednn_pays(8 * 8 * 6, layer.weight.to("meta"))


def test_one_vector_is_multiplied_as_by_torch(processor, products):
    layer = Linear(4, 4)
    layer(torch.randn(4)).sum().backward()
    assert not products and layer.weight.grad is not None


def test_a_compiler_traces_it_whole(monkeypatch, graphs):
    monkeypatch.setattr(linear_module, "LEAST", dict.fromkeys(linear_module.LEAST, 0))
    layer, states = Linear(8, 4), torch.randn(6, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(states), layer(states))
    assert graphs() == 1


@pytest.mark.parametrize(
    ("vendor", "family", "capability", "expected"),
    [
        ("AuthenticAMD", 25, "AVX512", 25),
        ("AuthenticAMD", 26, "AVX512", 26),
        ("AuthenticAMD", 27, "AVX512", 26),  # not measured: as the last one that was
        ("AuthenticAMD", 25, "AVX2", None),
        ("GenuineIntel", 6, "AVX512", None),
    ],
)
def test_the_processor_is_known_by_its_family(monkeypatch, vendor, family, capability, expected):
    text = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
    monkeypatch.setattr(linear_module.Path, "is_file", lambda path: True)
    monkeypatch.setattr(linear_module.Path, "read_text", lambda path: text)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert linear_module._family.__wrapped__() == expected


@pytest.mark.parametrize(("shape", "expected"), [((8, 16), {25: 2, 26: 3}), ((16, 8), {25: 3, 26: 3})])
def test_the_gradient_of_the_weight_stays_in_mkl_where_turning_around_does_not_pay(
    processor, products, shape, expected
):
    ran = {}
    for family in linear_module.LEAST:
        processor(family)
        layer, states = Linear(*shape), torch.randn(6, shape[0], requires_grad=True)
        layer(states).sum().backward()
        ran[family] = len(products)
        products.clear()
        torch.testing.assert_close(layer.weight.grad, states.detach().sum(dim=0).expand(shape[1], -1))
    assert ran == expected


@pytest.mark.parametrize("family", [None, 25, 26])
@given(tokens=st.integers(1, 9), sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_products_and_gradients_by_themselves_are_those_of_torch(tokens, sizes, seed, family):
    generator = torch.Generator().manual_seed(seed)
    (entering, leaving), draw = sizes, partial(torch.randn, generator=generator, dtype=torch.float32)
    states, weight, gradient = draw(tokens, entering), draw(leaving, entering), draw(tokens, leaving)
    onto = draw(tokens, entering)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_module, "_family", lambda: family)
        patch.setattr(linear_module, "LEAST", dict.fromkeys(linear_module.LEAST, 0))
        found = [
            linear_module.multiplied(states, weight),
            linear_module.grad_states(gradient, weight),
            linear_module.grad_states(gradient, weight, onto.clone()),
            linear_module.grad_weight(gradient, states),
        ]
    expected = [states @ weight.t(), gradient @ weight, gradient @ weight + onto, gradient.t() @ states]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 20_000), st.integers(1, 300))
def test_tokens_are_filled_up_to_few_numbers_and_by_little(tokens, longest):
    missing = spare(tokens, 1 << 20)
    assert 0 <= missing <= max(7, tokens / 32)
    assert spare(tokens + missing, 1 << 20) == 0
    assert spare(tokens, longest) == (missing if missing <= longest else 0)
    octave = {tokens + spare(tokens, tokens) for tokens in range(1 << 10, 1 << 11)}
    assert len(octave) <= 33


def step(model, ids, mask):
    """Logits, loss and every gradient."""
    model.zero_grad()
    output = model(ids, mask, torch.arange(len(ids)) % 3)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"logits": output.logits, "loss": output.loss} | gradients


@pytest.mark.parametrize("pooling", ["mean", "last", "first-1", "kv-probe"])
@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt_neox", "modernbert"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_torchs_own_products(
    tiny_decoder, make_batch, processor, products, family, pooling, checkpointing
):
    settings = {"pooling": pooling, "num_labels": 3, "attention_dropout": 0.0, "ffn_dropout": 0.0}
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(family), **settings).train()
    ids, mask = make_batch(LENGTHS, "left")
    processor(None)
    products.clear()
    plain = step(model, ids, mask)
    assert not products
    processor(26)
    if checkpointing:
        model.activation_checkpointing_enable()
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    found = step(model, ids, mask)
    hook.remove()
    assert products
    assert seen == [sum(LENGTHS) + spare(sum(LENGTHS), max(LENGTHS))] == [104]
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_rows_stay_apart(tiny_decoder, make_batch, family, processor):
    """Changing one row leaves every bit of the others, and what is not finite in one row stays there."""
    model, (ids, mask) = GemmaEncoder.from_decoder(tiny_decoder(family)), make_batch(LENGTHS)
    ids[ids == 50] = 51
    others = [0, 1, 2, 4]
    with torch.no_grad():
        before = model(ids, mask)
        again = ids.clone()
        again[3, 7] = (ids[3, 7] + 7) % 50
        after = model(again, mask)
        model.get_input_embeddings().weight[50] = torch.nan
        again[3, 7] = 50
        broken = model(again, mask)
    for output in (after, broken):
        assert torch.equal(output.last_hidden_state[others], before.last_hidden_state[others])
        assert torch.equal(output.pooler_output[others], before.pooler_output[others])
    assert not torch.equal(after.last_hidden_state[3], before.last_hidden_state[3])
    assert broken.pooler_output[3].isnan().all()


def test_spare_tokens_leave_no_trace_in_what_is_given_back(tiny_decoder, make_batch, processor):
    model, (ids, mask) = GemmaEncoder.from_decoder(tiny_decoder()), make_batch(LENGTHS)
    processor(None)
    plain = model(ids, mask, output_hidden_states=True, output_attentions=True)
    processor(26)
    for weights in (True, False):
        found = model(ids, mask, output_hidden_states=True, output_attentions=weights)
        torch.testing.assert_close(found.hidden_states, plain.hidden_states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.pooler_output, plain.pooler_output, atol=1e-5, rtol=1e-5)
        if weights:
            torch.testing.assert_close(found.attentions, plain.attentions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.layer_states(ids, mask)[:-1], plain.hidden_states[1:-1], atol=1e-5, rtol=1e-5)


def test_lora_on_these_layers_trains_what_it_should(tiny_decoder, make_batch, processor, products):
    settings = {"num_labels": 3, "attention_dropout": 0.0, "ffn_dropout": 0.0}
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), **settings)
    tuned = add_lora(model, rank=2).train()
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    ids, mask = make_batch(LENGTHS)
    found = []
    for family in (26, None):
        processor(family)
        products.clear()
        tuned.zero_grad()
        tuned(ids, mask, torch.tensor([0, 1, 2, 0, 1])).loss.backward()
        assert bool(products) == bool(family)
        found.append({name: each.grad for name, each in tuned.named_parameters() if each.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("lora_A" in name for name in found[0])
    assert not any("base_layer" in name for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-4)


def test_a_model_beside_stays_as_it_is(tiny_config):
    """Only modules of the decoder that is adapted change their class; its layers are linear layers for everybody."""
    theirs = Gemma2ForSequenceClassification(tiny_config())
    adapted = copy.deepcopy(theirs.model)
    exchange(adapted)
    assert not any(isinstance(module, Linear) for module in theirs.modules())
    ours = [module for module in adapted.modules() if isinstance(module, nn.Linear)]
    assert len(ours) == 4 * 7 and all(type(module) is Linear for module in ours)
    assert adapted.state_dict().keys() == theirs.model.state_dict().keys()


def test_product_is_what_torch_says_it_is():
    """The operator of torch that this rests on, of rows and of columns."""
    left, right = torch.randn(7, 5), torch.randn(3, 5)
    torch.testing.assert_close(Product.apply(left, right, None), left @ right.t())
    torch.testing.assert_close(linear_module.product(left, right.t().contiguous().t()), left @ right.t())
