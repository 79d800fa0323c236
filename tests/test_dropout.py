"""Dropout acts where it was asked for, at the rate that was asked for, on every path, and only while training."""

import copy
import math

import pytest
import torch
from torch import nn

from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification
from gemma_encoder.attention import choose_biases, encoder_attention, new_adaptation
from gemma_encoder.dropout import Dropout, add_dropout
from gemma_encoder.errors import InputError
from gemma_encoder.families import attention_modules, ffn_modules
from gemma_encoder.masks import bidirectional
from gemma_encoder.visibility import look

PATHS = pytest.mark.parametrize("unpadded", [True, False], ids=["unpadded", "padded"])
LENGTHS = [9, 3, 14, 1]


def dropped(model):
    """Lists that fill with the feed-forward outputs of a live model."""
    outputs = []
    for ffn in ffn_modules(model.backbone):
        ffn.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    return outputs


def assert_rate(zeros, total, rate):
    """`zeros` of `total` is what a binomial of that rate gives, within 5 standard deviations."""
    assert abs(zeros - total * rate) <= 5 * math.sqrt(total * rate * (1 - rate)), (zeros, total, rate)


@PATHS
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("attention_dropout", "ffn_dropout"), [(0.1, 0.3), (0.3, 0.0), (0.0, 0.1), (0.0, 0.0)])
def test_the_rates_on_a_live_model(tiny_decoder, make_batch, unpadded, checkpointing, attention_dropout, ffn_dropout):
    model = GemmaEncoder.from_decoder(
        tiny_decoder(), attention_dropout=attention_dropout, ffn_dropout=ffn_dropout, unpadded=unpadded
    ).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ffn, (ids, mask) = dropped(model), make_batch([20] * 6)
    weights = model(ids, mask, output_attentions=True).attentions[1::2]  # the global layers: no zero by the mask
    assert_rate(sum((layer == 0).sum().item() for layer in weights), sum(map(torch.numel, weights)), attention_dropout)
    assert_rate(sum((layer == 0).sum().item() for layer in ffn), sum(map(torch.numel, ffn)), ffn_dropout)
    assert len(ffn) == len(weights) * 2 == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rate", "shape"), [(0.1, (331, 7, 87)), (0.5, (40001,)), (0.9999, (400, 1000))])
def test_noise_of_16_bits_has_the_rate_and_the_scale(rate, shape, dtype):
    torch.manual_seed(0)
    states = torch.ones(shape, dtype=dtype, requires_grad=True)
    dropped = Dropout(rate)(states)
    assert (dropped.shape, dropped.dtype) == (states.shape, dtype)
    assert_rate((dropped == 0).sum().item(), dropped.numel(), rate)
    scale = torch.tensor(1 / (1 - round(rate * 65536) / 65536)).to(dtype)
    assert torch.equal(dropped[dropped != 0].unique(), scale[None])
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())
    flat = (dropped == 0).flatten()[: states.numel() // 4 * 4].view(-1, 4).double()
    for left, right in [(0, 1), (0, 3), (1, 2)]:  # the four values of one number know nothing of each other
        both = (flat[:, left] * flat[:, right]).sum().item()
        assert_rate(both, len(flat), rate**2)


@pytest.mark.parametrize(("rate", "kept"), [(1e-9, True), (1 - 1e-9, False)])
def test_noise_at_the_ends_is_finite(rate, kept):
    states = torch.ones(64)
    found = Dropout(rate)(states)
    assert found.isfinite().all() and (not kept or torch.equal(found, states))
    assert Dropout(rate)(torch.ones(0, 3)).shape == (0, 3)


@PATHS
@pytest.mark.parametrize("family", ["gemma2", "llama"])  # the plain formula, the fused kernel
@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)], ids=["attention", "ffn"])
def test_training_passes_differ_seeds_repeat_and_evaluation_is_still(tiny_decoder, make_batch, family, rates, unpadded):
    model = GemmaEncoder.from_decoder(
        tiny_decoder(family), attention_dropout=rates[0], ffn_dropout=rates[1], unpadded=unpadded
    )

    def encode(seed):
        torch.manual_seed(seed)
        return model(*make_batch(LENGTHS)).pooler_output

    model.train()
    assert not torch.equal(encode(1), encode(2))
    assert torch.equal(encode(1), encode(1))
    model.eval()
    assert torch.equal(encode(1), encode(2))
    without = GemmaEncoder.from_decoder(tiny_decoder(family), attention_dropout=0, ffn_dropout=0, unpadded=unpadded)
    assert torch.equal(encode(1), without.train()(*make_batch(LENGTHS)).pooler_output)


@pytest.mark.parametrize("softcap", [None, 2.0], ids=["sdpa", "formula"])
def test_kept_attention_weights_are_scaled_up_on_both_paths(tiny_decoder, softcap):
    backbone, width, rate = tiny_decoder("llama"), 16, 0.25
    add_dropout(backbone, rate, 0.0)
    choose_biases(backbone, new_adaptation(backbone), [0] * 4)
    module = attention_modules(backbone)[0]
    visibility = look(torch.ones(8, width).bool(), [bidirectional] * 4, torch.float32, unpadded=False, heads=(4, 4))
    query, key = torch.randn(2, 8, 4, width, 8)
    values = torch.eye(width).expand(8, 4, width, width)  # attention over unit vectors returns its own weights

    def weights():
        rows, _ = encoder_attention(module, query, key, values, None, 0.3, softcap, visibility)
        return rows

    module.eval()
    still = weights()
    torch.testing.assert_close(still.sum(-1), torch.ones(8, width, 4))
    module.train()
    noisy = weights()
    kept = noisy != 0
    assert_rate((~kept).sum().item(), kept.numel(), rate)
    torch.testing.assert_close(noisy[kept], still[kept] / (1 - rate))


@PATHS
@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt_neox"])
def test_checkpointing_replays_the_same_dropout(tiny_decoder, make_batch, monkeypatch, family, unpadded):
    gradients, drawn, noise = [], [], Dropout.noise
    monkeypatch.setattr(Dropout, "noise", lambda module, states: drawn.append(module) or noise(module, states))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = GemmaEncoderForSequenceClassification.from_decoder(
            tiny_decoder(family), attention_dropout=0.2, ffn_dropout=0.2, unpadded=unpadded
        ).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        drawn.clear()
        torch.manual_seed(4)
        model(*make_batch(LENGTHS), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    first = ffn_modules(model.encoder.backbone)[0].output_dropout
    assert drawn.count(first) == 2, "checkpointing did not run the layer again"
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_decoder_adapted_twice_drops_once_at_the_new_rate(tiny_decoder, make_batch):
    backbone = GemmaEncoder.from_decoder(tiny_decoder(), attention_dropout=0.4, ffn_dropout=0.4).backbone
    again = GemmaEncoder.from_decoder(backbone, attention_dropout=0.0, ffn_dropout=0.2).train()
    for model in (again, copy.deepcopy(again)):
        ffn = dropped(model)
        model(*make_batch([20] * 6))
        assert_rate(sum((layer == 0).sum().item() for layer in ffn), sum(map(torch.numel, ffn)), 0.2)
        assert [module.softmax_dropout.p for module in attention_modules(model.backbone)] == [0.0] * 4


def test_a_model_whose_decoder_was_adapted_twice_is_not_saved_with_rates_it_lost(tiny_decoder, tmp_path):
    first = GemmaEncoder.from_decoder(tiny_decoder(), attention_dropout=0.4)
    GemmaEncoder.from_decoder(first.backbone, attention_dropout=0.2).save_pretrained(tmp_path / "second")
    with pytest.raises(InputError, match=r"config.attention_dropout is 0.4, the model drops \[0.2\]"):
        first.save_pretrained(tmp_path / "first")


def test_the_dropouts_are_visible_modules(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder(), attention_dropout=0.1, ffn_dropout=0.2)
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.1, 0.2] * 4


@pytest.mark.parametrize("name", ["attention_dropout", "ffn_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 1.5, "0.1", True, None, float("nan")])
def test_a_rate_outside_0_to_1_is_refused_by_name(tiny_decoder, name, rate):
    with pytest.raises(InputError, match=rf"{name} {rate!r} is not valid; valid: a number in \[0, 1\)"):
        GemmaEncoder.from_decoder(tiny_decoder(), **{name: rate})
    with pytest.raises(InputError, match=name):
        add_dropout(tiny_decoder(), **{"attention_dropout": 0.1, "ffn_dropout": 0.1, name: rate})
