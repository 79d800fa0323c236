"""The proofs on a live model: they agree with masks worked out by hand, and a broken model does not get past them."""

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

import gemma_encoder.model
from gemma_encoder import GemmaEncoder, GemmaEncoderForSequenceClassification, check_visibility, influence_matrix
from gemma_encoder.errors import InputError
from gemma_encoder.families import attention_modules
from gemma_encoder.masks import and_masks, bidirectional, causal, reach, window
from gemma_encoder.verify import PROBED_PADDINGS, VisibilityError, influence, layer_matrix
from gemma_encoder.visibility import look

IDS = torch.arange(5, 14)
DISTANCE = torch.arange(9) - torch.arange(9)[:, None]  # kv - q


@pytest.mark.parametrize("padding", PROBED_PADDINGS)
@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_a_local_layer_sees_its_window_and_not_one_token_more(tiny_decoder, width, unpadded, padding):
    for attention, band in (
        ("bidirectional", DISTANCE.abs() < width),
        ("causal", (DISTANCE <= 0) & (DISTANCE.abs() < width)),
    ):
        decoder = tiny_decoder(sliding_window=width, layer_types=["sliding_attention"] * 4)
        model = GemmaEncoder.from_decoder(decoder, attention=attention, unpadded=unpadded)
        measured = influence_matrix(model, IDS, padding)
        assert torch.equal(measured[0], band)
        assert torch.equal(measured, reach(model.masks, 9))
        assert torch.equal(layer_matrix(model, IDS, padding), band.expand(4, 9, 9))


@pytest.mark.parametrize("padding", PROBED_PADDINGS)
@pytest.mark.parametrize(("attention", "sees"), [("bidirectional", DISTANCE < 9), ("causal", DISTANCE <= 0)])
def test_a_global_layer_sees_everything_or_the_past(tiny_decoder, attention, sees, padding):
    model = GemmaEncoder.from_decoder(tiny_decoder("llama"), attention=attention)
    assert torch.equal(influence_matrix(model, IDS, padding), sees.expand(4, 9, 9))


def test_influence_measures_any_model_and_finds_a_flag_without_effect(tiny_config):
    """Gemma 2 of transformers stays causal whatever `use_bidirectional_attention` says; `is_causal` works."""
    found = {}
    for setting in ("nothing", "use_bidirectional_attention", "is_causal"):
        config = tiny_config(sliding_window=32)
        if setting != "nothing":
            setattr(config, setting, setting == "use_bidirectional_attention")
        torch.manual_seed(0)
        decoder = AutoModel.from_config(config, attn_implementation="eager").eval()
        found[setting] = influence(lambda ids, decoder=decoder: decoder(ids[None]).last_hidden_state[0], IDS, IDS + 48)
    assert torch.equal(found["nothing"], DISTANCE <= 0)
    assert torch.equal(found["use_bidirectional_attention"], DISTANCE <= 0)
    assert found["is_causal"].all()


@pytest.mark.parametrize("unpadded", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_one_causal_layer_in_a_bidirectional_model_is_caught_by_its_number(tiny_decoder, layer, unpadded):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder("llama"), unpadded=unpadded)
    check_visibility(model)
    model.encoder.masks[layer] = causal
    with pytest.raises(VisibilityError) as caught:
        check_visibility(model)
    assert f"layer {layer + 1} with padding 'none', token 0 should depend on token 1; " in str(caught.value)
    assert "not 'bidirectional'" in str(caught.value)


def test_one_bidirectional_layer_in_a_causal_model_is_caught(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder("llama"), attention="causal")
    model.masks[2] = bidirectional
    with pytest.raises(VisibilityError, match=r"layer 3 .*token 0 must not depend on token 1"):
        check_visibility(model)


@pytest.mark.parametrize("width", [3, 5])
def test_a_window_wrong_by_one_is_caught(tiny_decoder, width):
    model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=4))
    model.masks[2] = and_masks(bidirectional, window(width))
    with pytest.raises(VisibilityError, match=r"in layer 3 .*token 0 (should|must not) depend on token [34]"):
        check_visibility(model)


def test_a_switch_that_works_without_padding_only_is_caught(tiny_decoder, monkeypatch):
    def forgetful(real, masks, *args, **kwargs):
        return look(real, masks if real.all() else [causal] * 4, *args, **kwargs)

    monkeypatch.setattr(gemma_encoder.model, "look", forgetful)
    with pytest.raises(VisibilityError, match="layer 1 with padding 'right', token 0 should depend on token 1"):
        check_visibility(GemmaEncoder.from_decoder(tiny_decoder("llama")))


@pytest.mark.parametrize("unpadded", [True, False])
def test_adapting_measures_what_tokens_see(tiny_decoder, causal_look, unpadded):
    GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded)
    causal_look()
    with pytest.raises(VisibilityError, match="attention is not 'bidirectional'"):
        GemmaEncoder.from_decoder(tiny_decoder(), unpadded=unpadded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("auto", [True, False])
def test_every_load_measures_what_tokens_see(tiny_decoder, tmp_path, monkeypatch, dtype, auto):
    GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder("llama")).save_pretrained(tmp_path)
    loader = AutoModelForSequenceClassification if auto else GemmaEncoder
    loader.from_pretrained(tmp_path, dtype=dtype)
    monkeypatch.setattr(
        gemma_encoder.model, "look", lambda real, masks, *rest, **kw: look(real, [causal] * 4, *rest, **kw)
    )
    with pytest.raises(VisibilityError, match=r"layer 1 with padding 'none', token 0 should depend on token 1"):
        loader.from_pretrained(tmp_path, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 1e-12, 20.0])
def test_ids_that_training_never_met_hide_no_token_and_no_fault(tiny_decoder, dtype, fill):
    """It leaves their embeddings alike, or shrinks them to nothing: most pairs of ids move nothing."""
    decoder = tiny_decoder()
    with torch.no_grad():
        weight = decoder.get_input_embeddings().weight
        weight[:75] = fill * weight[80]
    model = GemmaEncoder.from_decoder(decoder, dtype=dtype)
    check_visibility(model)
    model.masks[2] = causal
    with pytest.raises(VisibilityError, match="layer 3"):
        check_visibility(model)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_pads_that_are_read_are_caught(tiny_decoder, monkeypatch, attention):
    monkeypatch.setattr(gemma_encoder.model, "look", lambda real, *rest, **kw: look(torch.ones_like(real), *rest, **kw))
    with pytest.raises(VisibilityError, match=r"not kept apart: after layer 1 with padding '(right|left)'"):
        GemmaEncoder.from_decoder(tiny_decoder("llama"), attention=attention, unpadded=False)


def test_rows_that_read_each_other_are_caught(tiny_decoder):
    class Leaky(GemmaEncoder):
        def _to_slots(self, states, real):
            slots = super()._to_slots(states, real)
            return slots + slots.mean(dim=(0, 1)) if len(slots) > 1 else slots

    with pytest.raises(VisibilityError, match="depend on pads or on another row"):
        Leaky.from_decoder(tiny_decoder("llama"))


@pytest.mark.parametrize("unpadded", [True, False])
def test_a_proof_leaves_modes_weights_gradients_and_random_state_alone(tiny_decoder, unpadded):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), unpadded=unpadded).train()
    model.encoder.backbone.layers[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    random_state = torch.get_rng_state()
    check_visibility(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks


def test_a_failed_proof_restores_the_mode_too(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder()).train()
    model.masks[3] = causal
    with pytest.raises(VisibilityError):
        check_visibility(model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_the_number_of_tokens_is_free(tiny_decoder, tokens, dtype):
    model = GemmaEncoder.from_decoder(tiny_decoder(), dtype=dtype)
    assert torch.equal(check_visibility(model, tokens), reach(model.masks, tokens))


def test_an_unknown_padding_lists_the_valid_ones(tiny_decoder):
    with pytest.raises(InputError, match=r"unknown padding 'middle'.*right"):
        influence_matrix(GemmaEncoder.from_decoder(tiny_decoder()), IDS, "middle")


@pytest.mark.parametrize("family", ["gemma2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_small_weights_and_rounding_hide_no_token_and_no_fault(tiny_decoder, family, dtype):
    """In a trained decoder some tokens get hardly any weight, and attention adds little to a large state."""
    decoder = tiny_decoder(family)
    with torch.no_grad():
        decoder.get_input_embeddings().weight.mul_(300)
        for layer in decoder.layers:
            layer.self_attn.q_proj.weight.mul_(300)
    model = GemmaEncoder.from_decoder(decoder, dtype=dtype)
    check_visibility(model, 24)
    assert not any(hasattr(module, "equal_scores") for module in attention_modules(model.backbone))
    model.masks[2] = and_masks(model.masks[2], lambda batch, head, q, kv: (q != 1) | (kv != 3))
    with pytest.raises(VisibilityError, match=r"in layer 3 .*token 1 should depend on token 3"):
        check_visibility(model, 24)
