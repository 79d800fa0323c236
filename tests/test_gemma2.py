"""The sublayers of Gemma 2 written out: values and gradients of its modules, through which autograd walks."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer as TheirGemma2DecoderLayer
from transformers.models.gemma2.modeling_gemma2 import apply_rotary_pos_emb

import gemma_encoder.attention as attention_module
import gemma_encoder.gemma2 as gemma2_module
import gemma_encoder.model as model_module
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.capped import Setting
from gemma_encoder.dropout import Dropout
from gemma_encoder.errors import VisibilityError
from gemma_encoder.exchange import OURS
from gemma_encoder.families import FAMILIES, layers
from gemma_encoder.gemma2 import (
    Angles,
    AttentionSublayer,
    FeedForwardSublayer,
    Gemma2DecoderLayer,
    Gemma2RotaryEmbedding,
    rotated,
    rotated_backward,
    sublayers_written_out,
)
from gemma_encoder.linear import Linear, grad_weight
from gemma_encoder.lora import add_lora
from gemma_encoder.masks import bidirectional
from gemma_encoder.norm import Gemma2RMSNorm
from gemma_encoder.verify import check_visibility, layer_matrix
from gemma_encoder.visibility import look, look_from

STILL = {"attention_dropout": 0.0, "ffn_dropout": 0.0}
LENGTHS = [9, 2, 12, 5]
EPS = 1e-6, 1e-3


def by_modules(monkeypatch):
    """Let no sublayer be written out."""
    monkeypatch.setattr(model_module, "sublayers_written_out", lambda *args: False)


def plainly(monkeypatch):
    """Let every module run as transformers has it, attention by the formula."""
    by_modules(monkeypatch)
    monkeypatch.setattr(attention_module, "attention_written_out", lambda *args: False)


def watched(monkeypatch):
    """Lists that fill with how many tokens go into every sublayer that is written out."""
    ran = {}
    for function in (AttentionSublayer, FeedForwardSublayer):
        seen = ran[function] = []
        spy = partial(lambda call, seen, *args: seen.append(len(args[0])) or call(*args), function.apply, seen)
        monkeypatch.setattr(function, "apply", spy)
    return list(ran.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last", "first-2"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal", "bidirectional-last-2", "prefix-3"])
def test_a_model_has_the_gradients_that_it_has_without(
    tiny_decoder, make_batch, monkeypatch, attention, pooling, checkpointing
):
    model = GemmaEncoderForSequenceClassification.from_decoder(
        tiny_decoder(), attention=attention, pooling=pooling, **STILL
    ).train()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, std=0.3)
    (ids, mask), labels, results = make_batch(LENGTHS, "left"), torch.tensor([0, 1, 1, 0]), []
    ran = watched(monkeypatch)
    for without in (False, True):
        if without:
            plainly(monkeypatch)
        elif checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        loss = model(ids, mask, labels=labels).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters())])
    read = {"mean": 28, "last": 4, "first-2": 8}[pooling]
    assert [seen[:4] for seen in ran] == [[28, 28, 28, 28], [28, 28, 28, read]]
    assert {len(seen) for seen in ran} == {4 + 4 * checkpointing}, "without them they ran as well, or not when again"
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_states_are_those_of_the_modules_to_the_last_bit(tiny_decoder, make_batch, monkeypatch):
    """So that a hook, or a new LoRA matrix, changes nothing."""
    model, batch = GemmaEncoder.from_decoder(tiny_decoder()).eval(), make_batch(LENGTHS)
    ours = model.layer_states(*batch)
    by_modules(monkeypatch)
    assert all(map(torch.equal, ours, model.layer_states(*batch)))


def of_attention(seen, read=None, dropout=0.0):
    """`AttentionSublayer` of 4 heads of 4, 2 of keys, over tokens of 6, as a function of its tensors; and these."""
    tokens, last = seen.position_ids.shape[1], seen if read is None else look_from(seen, read)
    angle = torch.randn(tokens, 1, 2, dtype=torch.float64)
    cos, sin = angle.cos().repeat(1, 1, 2), torch.cat([-angle.sin(), angle.sin()], dim=-1)
    asked = last.read if read is not None else slice(None)
    settings = EPS, ((cos[asked], sin[asked]), (cos, sin)), None if read is None else last.read
    setting = Setting(last, 0, 0.7, 1.5, Dropout(dropout).train())
    shapes = [(tokens, 6), (6,), (16, 6), (8, 6), (8, 6), (6, 16), (6,)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(*tensors):
        torch.manual_seed(5)
        return AttentionSublayer.apply(*tensors, *settings, setting)

    return run, given


@pytest.mark.parametrize("read", [None, [2, 3, 6, 7]])
def test_gradients_of_attention_are_those_of_differences(read):
    seen = look(torch.arange(5) < torch.tensor([[4], [5]]), [bidirectional], torch.float64, heads=(4, 2))
    run, given = of_attention(seen, None if read is None else torch.tensor(read), dropout=0.3)
    assert torch.autograd.gradcheck(run, given)


def of_feed_forward(dropout):
    """`FeedForwardSublayer` of 5 tokens of 6, 10 inside, as a function of its tensors; and these."""
    shapes = [(5, 6), (6,), (10, 6), (10, 6), (6, 10), (6,)]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def run(*tensors):
        torch.manual_seed(5)
        return FeedForwardSublayer.apply(*tensors, EPS, Dropout(dropout).train())

    return run, given


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_the_feed_forward_block_are_those_of_differences(dropout):
    run, given = of_feed_forward(dropout)
    assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("kind", ["attention", "feed-forward"])
def test_gradients_of_weights_that_are_not_trained_are_not_computed(kind, monkeypatch):
    seen = look(torch.ones(1, 5).bool(), [bidirectional], torch.float64, heads=(4, 2))
    run, given = of_attention(seen) if kind == "attention" else of_feed_forward(0.0)
    everything = torch.autograd.grad(run(*given).sin().sum(), given)
    computed = []
    monkeypatch.setattr(gemma2_module, "grad_weight", lambda *states: computed.append(1) or grad_weight(*states))
    for frozen in range(1, len(given)):
        given[frozen].requires_grad_(False)
        computed.clear()
        found = torch.autograd.grad(run(*given).sin().sum(), [each for each in given if each.requires_grad])
        assert len(computed) == len(given) - 3 - (given[frozen].dim() == 2)
        torch.testing.assert_close(found, everything[:frozen] + everything[frozen + 1 :])
        given[frozen].requires_grad_(True)


@pytest.mark.parametrize("kind", ["attention", "feed-forward"])
def test_a_second_gradient_is_refused_because_it_would_be_wrong(kind):
    seen = look(torch.ones(1, 5).bool(), [bidirectional], torch.float64, heads=(4, 2))
    run, given = of_attention(seen) if kind == "attention" else of_feed_forward(0.0)
    (first,) = torch.autograd.grad(run(*given).square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_a_graph_that_is_kept_gives_the_same_gradient_again(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder(), attention_dropout=0.3, ffn_dropout=0.3).train()
    loss = model(*make_batch(LENGTHS)).pooler_output.sin().sum()
    wanted = list(model.parameters())
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, wanted)))


def test_the_gradient_of_a_rotation_is_right_for_any_angles():
    states, weight, *rotation = torch.randn(4, 6, 3, 8, dtype=torch.float64)
    states.requires_grad_()
    (rotated(states, rotation) * weight).sum().backward()
    torch.testing.assert_close(rotated_backward(weight, rotation), states.grad)


def test_states_are_rotated_as_by_the_decoder_and_back():
    states, angle = torch.randn(5, 3, 8), torch.randn(1, 5, 4)
    cos, sin = angle.cos().repeat(1, 1, 2), angle.sin().repeat(1, 1, 2)
    theirs, _ = apply_rotary_pos_emb(states.transpose(0, 1)[None], states.transpose(0, 1)[None], cos, sin)
    of_queries, of_keys = Angles((cos, sin)).by_head(3, 2)
    ours = rotated(states, of_queries)
    assert torch.equal(ours, theirs[0].transpose(0, 1))
    assert torch.equal(rotated(states[:, :2], of_keys), ours[:, :2])
    torch.testing.assert_close(rotated_backward(ours, of_queries), states)


def test_angles_are_laid_out_once_for_all_layers(tiny_decoder, make_batch, monkeypatch):
    laid_out = []
    first = Angles.by_head
    monkeypatch.setattr(Angles, "by_head", lambda *args: laid_out.append(first(*args)) or laid_out[-1])
    model = GemmaEncoder.from_decoder(tiny_decoder())
    laid_out.clear()
    model(*make_batch(LENGTHS))
    assert len(laid_out) == len(layers(model.backbone)) > 1
    assert len(set(map(id, laid_out))) == 1


def test_angles_of_another_rotation_are_taken_as_they_come(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    batch = make_batch(LENGTHS)
    expected = model(*batch).pooler_output
    model.backbone.rotary_emb.__class__ = Gemma2RotaryEmbedding.__bases__[0]
    assert torch.equal(model(*batch).pooler_output, expected)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_only_gemma2_has_it(tiny_decoder, family):
    found = layers(GemmaEncoder.from_decoder(tiny_decoder(family)).backbone)
    assert {isinstance(layer, Gemma2DecoderLayer) for layer in found} == {family == "gemma2"}


def hook(name, kind="forward_hook"):
    return lambda layer: getattr(layer.get_submodule(name), f"register_{kind}")(lambda *call: None)


def subclass(module):
    module.__class__ = type("Other", (type(module),), {})


def put_forward(layer):
    layer.mlp.up_proj.forward = layer.mlp.up_proj.forward


def put_bias(layer):
    linear = layer.self_attn.q_proj
    linear.bias = nn.Parameter(torch.randn(linear.out_features))


def put_activation(layer):
    layer.mlp.act_fn = nn.SiLU()


class Matrix(torch.Tensor):
    """As of a library that quantises."""


def put_matrix(layer):
    layer.mlp.up_proj.weight = nn.Parameter(layer.mlp.up_proj.weight.detach().as_subclass(Matrix), requires_grad=False)


OTHERS = {
    "a hook on a linear layer": hook("mlp.up_proj"),
    "a hook on attention": hook("self_attn"),
    "a hook on a norm": hook("input_layernorm"),
    "a hook before a linear layer": hook("self_attn.o_proj", "forward_pre_hook"),
    "a hook on the backward pass": hook("mlp", "full_backward_hook"),
    "a hook before the backward pass": hook("mlp.down_proj", "full_backward_pre_hook"),
    "a block that is compiled": lambda layer: layer.mlp.compile(backend="eager"),
    "a matrix of another kind": put_matrix,
    "a forward of its own": put_forward,
    "a bias": put_bias,
    "another layer": subclass,
    "another attention": lambda layer: subclass(layer.self_attn),
    "another linear layer": lambda layer: subclass(layer.self_attn.q_proj),
    "another activation": put_activation,
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_not_as_gemma2_has_it_runs_as_it_stands_there(tiny_decoder, make_batch, monkeypatch, other):
    model, batch = GemmaEncoder.from_decoder(tiny_decoder(), pooling="last").eval(), make_batch(LENGTHS)
    last, seen = layers(model.backbone)[-1], model.look(batch[1].bool())
    states = model.get_input_embeddings().weight
    assert sublayers_written_out(last, states, seen)
    OTHERS[other](last)
    assert not sublayers_written_out(last, states, seen)
    ran = watched(monkeypatch)
    only, whole = model(*batch, only_pooled=True).pooler_output, model(*batch).pooler_output
    assert [len(each) for each in ran] == [6, 6], "the other three layers, twice"
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)
    plainly(monkeypatch)
    torch.testing.assert_close(model(*batch).pooler_output, whole, atol=1e-6, rtol=1e-5)


def test_hooks_on_all_modules_see_all_of_them(tiny_decoder, make_batch):
    model, seen = GemmaEncoder.from_decoder(tiny_decoder()).eval(), []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *call: seen.append(type(module)))
    try:
        model(*make_batch(LENGTHS))
    finally:
        hook.remove()
    assert seen.count(Linear) == 4 * 7


@pytest.mark.parametrize("asked", ["output_attentions", "output_hidden_states"])
def test_what_was_asked_for_once_does_not_slow_down_what_comes(tiny_decoder, make_batch, monkeypatch, asked):
    """transformers leaves its hooks on every attention module."""
    model, batch = GemmaEncoder.from_decoder(tiny_decoder()).eval(), make_batch(LENGTHS)
    assert len(model(*batch, **{asked: True})["attentions" if "attentions" in asked else "hidden_states"]) >= 4
    ran = watched(monkeypatch)
    model(*batch)
    assert [len(each) for each in ran] == [4, 4]


def test_hooks_may_go_before_activations_are_recomputed(tiny_decoder, make_batch):
    model = GemmaEncoder.from_decoder(tiny_decoder(), **STILL).train()
    expected = torch.autograd.grad(model(*make_batch(LENGTHS)).pooler_output.sin().sum(), list(model.parameters()))
    model.activation_checkpointing_enable()
    hook = layers(model.backbone)[1].mlp.register_forward_hook(lambda *call: None)
    loss = model(*make_batch(LENGTHS)).pooler_output.sin().sum()
    hook.remove()
    loss.backward()
    torch.testing.assert_close([each.grad for each in model.parameters()], list(expected), atol=1e-6, rtol=1e-4)


def test_norms_may_have_an_epsilon_each(tiny_decoder, make_batch, monkeypatch):
    model, batch = GemmaEncoder.from_decoder(tiny_decoder()).eval(), make_batch(LENGTHS)
    for at, norm in enumerate(module for module in model.modules() if isinstance(module, Gemma2RMSNorm)):
        norm.eps = 0.1 * (at + 1)
    ours = model(*batch).last_hidden_state
    by_modules(monkeypatch)
    assert torch.equal(model(*batch).last_hidden_state, ours)


def test_lora_is_not_passed_over(tiny_decoder, make_batch, monkeypatch):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), pooling="last", **STILL)
    model, ran, results = add_lora(model, rank=2).train(), watched(monkeypatch), []
    for without in (False, True):
        if without:
            plainly(monkeypatch)
        model.zero_grad()
        model(*make_batch(LENGTHS), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        results.append([each.grad for name, each in model.named_parameters() if "lora_B" in name])
    assert ran == [[], []] and all(gradient.abs().max() > 0 for gradient in results[0])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-4)


def test_hooks_of_somebody_see_what_passes(tiny_decoder, make_batch):
    model, seen = GemmaEncoder.from_decoder(tiny_decoder()).eval(), []
    for layer in layers(model.backbone):
        layer.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model(*make_batch(LENGTHS))
    assert seen == 4 * [(1, sum(LENGTHS), 32)]


def test_proofs_measure_the_layers_as_they_run(tiny_decoder, monkeypatch):
    model, ids = GemmaEncoder.from_decoder(tiny_decoder()), torch.arange(5, 13)
    ran, right = watched(monkeypatch), layer_matrix(model, ids)
    assert all(ran)
    monkeypatch.setattr(gemma2_module, "Setting", lambda seen, kind, *rest: Setting(seen, 1 - kind, *rest))
    assert torch.equal(layer_matrix(model, ids), right.roll(1, dims=0)), "local and global layers, exchanged"
    with pytest.raises(VisibilityError, match="must not depend"):
        check_visibility(model)


def test_copies_run_their_own_weights(tiny_decoder, make_batch, monkeypatch):
    model, batch = GemmaEncoder.from_decoder(tiny_decoder()).eval(), make_batch(LENGTHS)
    twin = copy.deepcopy(model)
    ran = watched(monkeypatch)
    for parameter in twin.parameters():
        parameter.data.mul_(1.5)
    assert not torch.equal(model(*batch).pooler_output, twin(*batch).pooler_output)
    assert [len(each) for each in ran] == [8, 8]


@pytest.mark.parametrize("kept", [[0, 1, 3], [0, 2, 3], [1, 2, 3], [3, 2, 1, 0]])
def test_the_last_layer_is_the_one_that_stands_last(tiny_decoder, make_batch, kept):
    decoder = tiny_decoder()
    decoder.base_model.layers = nn.ModuleList(decoder.base_model.layers[at] for at in kept)
    decoder.config.num_hidden_layers = len(kept)
    decoder.config.layer_types = [decoder.config.layer_types[at] for at in kept]
    model, batch = GemmaEncoder.from_decoder(decoder, pooling="last").eval(), make_batch(LENGTHS)
    only, whole = model(*batch, only_pooled=True).pooler_output, model(*batch).pooler_output
    torch.testing.assert_close(only, whole, atol=1e-6, rtol=1e-5)


def test_the_class_of_the_layer_is_all_that_changes():
    assert OURS[TheirGemma2DecoderLayer] is Gemma2DecoderLayer
