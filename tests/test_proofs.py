"""The proof report: all true of a good model, which it leaves as it was; and each line finds the fault it is for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gemma_encoder.model
from gemma_encoder import (
    GemmaEncoder,
    GemmaEncoderForRanking,
    GemmaEncoderForSequenceClassification,
    GemmaEncoderForTokenClassification,
)
from gemma_encoder.cli import main
from gemma_encoder.dropout import add_dropout
from gemma_encoder.errors import VisibilityError
from gemma_encoder.families import attention_modules, ffn_modules
from gemma_encoder.masks import causal, layer_masks
from gemma_encoder.proofs import as_table, verify
from gemma_encoder.visibility import look, look_from, lowest

PATHS = pytest.mark.parametrize("unpadded", [True, False], ids=["unpadded", "padded"])


def failing(model):
    """What the report finds wrong."""
    return [proof.what for proof in verify(model) if not proof.ok]


def line(model, start):
    """The one line of the report that begins with `start`."""
    (proof,) = [proof for proof in verify(model) if proof.what.startswith(start)]
    return proof


@PATHS
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "gpt_neox"])
def test_all_is_true_of_a_good_model(tiny_decoder, family, unpadded):
    assert failing(GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(family), unpadded=unpadded)) == []


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GemmaEncoder, {"pooling": "kv-probe", "attention": "causal"}),
        (GemmaEncoderForRanking, {"pooling": "last-6", "attention": "bidirectional-last-2"}),
        (GemmaEncoderForTokenClassification, {"attention": "prefix-3", "local_layers": "open"}),
        (GemmaEncoder, {"attention_dropout": 0.0, "ffn_dropout": 0.6, "dtype": torch.bfloat16}),
        (GemmaEncoder, {"attention_dropout": 0.5, "ffn_dropout": 0.0}),
    ],
)
def test_all_is_true_of_other_heads_and_settings(tiny_decoder, kind, settings):
    model = kind.from_decoder(tiny_decoder(), **settings)
    assert failing(model) == []
    asked = settings.get("attention_dropout", 0.1)
    assert line(model, "dropout on the attention softmax, training").asked == f"{asked:g} in 4 layers"


def test_the_report_leaves_the_model_and_the_random_state_alone(tiny_decoder):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), attention_dropout=0.3).train()
    model.encoder.backbone.layers[1].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}

    def state():
        modules = list(model.modules())
        settings = [(module.training, getattr(module, "p", 0), len(module._forward_hooks)) for module in modules]
        caps = [module.attn_logit_softcapping for module in attention_modules(model.encoder.backbone)]
        return settings, caps, model.config.to_dict()

    model.encoder(torch.tensor([[5]]), output_hidden_states=True)  # transformers adds its own hooks, once
    before, random_state = state(), torch.get_rng_state()
    verify(model)
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# each line finds its fault


def test_a_causal_layer(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    model.masks[1] = causal
    found = failing(model)
    assert len(found) == 4
    assert all(what.startswith("what 8 tokens see") for what in found)
    said = line(model, "what 8 tokens see, padding 'left'").measured
    assert "after layer 2 with padding 'left', token 0 should" in said


def test_a_window_is_probed_at_its_edge(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=16))
    assert line(model, "what 18 tokens see, padding 'none'").measured == f"as asked, {4 * 18 * 18} entries"
    model.masks = gemma_encoder.model.planned_masks(GemmaEncoder.from_decoder(tiny_decoder(sliding_window=17)).config)
    assert len(failing(model)) == 4


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("attention", "other"), [("bidirectional", "causal"), ("causal", "bidirectional")])
def test_both_edges_of_a_window_wider_than_the_probe_are_measured(tiny_decoder, attention, other, dtype, unpadded):
    settings = {"attention": attention, "dtype": dtype, "unpadded": unpadded}
    model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=50), **settings)
    assert line(model, "edges of a width of 50").measured == "as asked"
    for width in (49, 51):
        model.masks = layer_masks(attention, [width, None] * 2)
        assert failing(model) == ["edges of a width of 50"]
    model.masks = layer_masks(other, [50, None] * 2)
    assert line(model, "edges of a width of 50").ok is False


def test_a_prefix_wider_than_the_probe_is_measured_too(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder("llama"), attention="prefix-45")
    assert line(model, "edges of a width of 45").measured == "as asked"
    model.masks = layer_masks("prefix-46", [None] * 4)
    assert failing(model) == ["edges of a width of 45"]


def test_a_window_that_no_row_fills_is_named(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=128))
    assert line(model, "edges of a width of 128").measured == "not measured: the model reads 128 tokens"
    opened = GemmaEncoder.from_decoder(tiny_decoder(sliding_window=50), local_layers="open")
    assert not [proof for proof in verify(opened) if proof.what.startswith("edges")]


def test_pads_that_are_read(tiny_decoder, monkeypatch):
    model = GemmaEncoder.from_decoder(tiny_decoder("llama"), unpadded=False)
    monkeypatch.setattr(gemma_encoder.model, "look", lambda real, *rest, **kw: look(torch.ones_like(real), *rest, **kw))
    found = failing(model)
    assert {"ids at pads, right", "ids at pads, left", "a row alone and in a batch"} <= set(found)


@pytest.mark.parametrize("pooling", ["first", "last-2"])
def test_a_last_attention_that_sees_too_little_where_only_some_ask(tiny_decoder, monkeypatch, pooling):
    model = GemmaEncoder.from_decoder(tiny_decoder(), pooling=pooling)
    assert not failing(model)

    def blind(*args):
        found = look_from(*args)
        for group in found.groups:
            group.biases[0][..., 0] = lowest(torch.float32)
        return found

    monkeypatch.setattr(gemma_encoder.model, "look_from", blind)
    assert failing(model) == ["vectors when only what is read is computed"]


def test_rows_that_move_each_other(tiny_decoder):
    class Leaky(GemmaEncoder):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.pooler_output = output.pooler_output + 1e-3 * output.pooler_output.mean(dim=0)
            return output

    assert failing(Leaky.from_decoder(tiny_decoder())) == ["a row alone and in a batch"]


@pytest.mark.parametrize("family", ["gemma2", "llama"])
@pytest.mark.parametrize(("rate", "seen"), [(0.0, "0.000"), (0.2, "0.")])
def test_dropout_of_another_rate_in_one_layer(tiny_decoder, family, rate, seen):
    model = GemmaEncoder.from_decoder(tiny_decoder(family), attention_dropout=0.1, ffn_dropout=0.1)
    attention_modules(model.backbone)[2].softmax_dropout.p = rate
    assert failing(model) == ["dropout on the attention softmax, training"]
    assert seen in line(model, "dropout on the attention softmax, training").measured
    attention_modules(model.backbone)[2].softmax_dropout.p = 0.1
    ffn_modules(model.backbone)[3].output_dropout.p = rate
    assert failing(model) == ["dropout on the feed-forward output, training"]


def test_dropout_that_is_there_but_never_called(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    ffn_modules(model.backbone)[0]._forward_hooks.clear()
    assert failing(model) == ["dropout on the feed-forward output, training"]
    for ffn in ffn_modules(model.backbone):
        ffn._forward_hooks.clear()
    assert line(model, "dropout on the feed-forward output, training").measured == "acts nowhere"


def test_dropout_in_evaluation(tiny_decoder):
    class Always(nn.Dropout):
        def forward(self, states):
            return F.dropout(states, self.p, training=True)

    model = GemmaEncoder.from_decoder(tiny_decoder())
    attention_modules(model.backbone)[0].softmax_dropout = Always(0.1)
    assert "dropout on the attention softmax, evaluation" in failing(model)
    model = GemmaEncoder.from_decoder(tiny_decoder())
    ffn_modules(model.backbone)[0].output_dropout = Always(0.1)
    assert "dropout on the feed-forward output, evaluation" in failing(model)


def test_noise_that_the_decoder_brings_along_is_off_and_found_when_it_is_not(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder("gpt_neox", hidden_dropout=0.2))
    assert failing(model) == []
    model.backbone.layers[0].post_mlp_dropout.p = 0.2
    assert failing(model) == ["other noise while training"]


def test_a_soft_cap_that_one_layer_does_not_apply(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder())
    good = line(model, "soft-cap")
    assert good.measured.startswith("acts in 4 layers; states move by up to")
    assert float(good.measured.split()[-3]) > 1e-2
    attention_modules(model.backbone)[3].attn_logit_softcapping = None
    assert failing(model) == ["soft-cap on attention scores", "computation of attention"]
    assert line(model, "soft-cap").measured.startswith("acts in 3 layers")
    assert line(model, "computation").measured == "formula (soft-cap 2), sdpa"


def test_a_soft_cap_in_the_configuration_that_the_decoder_ignores(tiny_decoder):
    """Gemma 3 of transformers reads the setting and never passes it to attention."""
    model = GemmaEncoder.from_decoder(tiny_decoder("gemma3_text", attn_logit_softcapping=2.0))
    assert line(model, "soft-cap").measured.startswith("acts in 0 layers")
    assert failing(model) == ["soft-cap on attention scores", "computation of attention"]
    assert line(model, "computation")[1:3] == ("formula (soft-cap 2)", "sdpa")
    assert not [proof for proof in verify(GemmaEncoder.from_decoder(tiny_decoder("llama"))) if "cap" in proof.what]


def test_a_part_of_another_size(tiny_decoder):
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=3, pooling="query-probe")
    assert line(model, "parameters of the head").measured == f"{32 * 32 + 32 + 3 * 32 + 3:,}"
    assert line(model, "parameters of the pooler").measured == f"{4 * 32 * 32 + 4 * 32:,}"
    backbone = sum(parameter.numel() for parameter in model.encoder.backbone.parameters())
    assert line(model, "parameters of the backbone").measured == f"{backbone:,}"
    model.head.out = nn.Linear(32, 4)
    assert failing(model) == ["parameters of the head"]


def test_weights_that_are_not_numbers(tiny_decoder):
    model = GemmaEncoder.from_decoder(tiny_decoder("llama"))
    nn.init.constant_(model.backbone.norm.weight, float("nan"))
    assert "a row alone and in a batch" in failing(model)


# the command


def test_the_command_prints_the_table_and_exits_1_on_a_difference(tiny_decoder, tmp_path, capsys, monkeypatch):
    model = GemmaEncoderForRanking.from_decoder(tiny_decoder(), attention="causal")
    model.save_pretrained(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    printed, said = capsys.readouterr()
    proofs = verify(model)
    assert printed.startswith(as_table(proofs))
    assert f"attention is causal, as asked; {len(proofs)} of {len(proofs)} proofs hold" in printed
    assert said == ""
    # dropout as a decoder's own settings would give it: on one of the two places
    monkeypatch.setattr(gemma_encoder.model, "add_dropout", lambda backbone, _, ffn: add_dropout(backbone, 0.0, ffn))
    assert main(["verify", str(tmp_path)]) == 1
    printed, said = capsys.readouterr()
    assert "NO  dropout on the attention softmax, training" in printed
    assert said == f"gemma-encoder: 1 of {len(proofs)} proofs fail: dropout on the attention softmax, training\n"


def test_the_command_shows_a_wrong_mask_in_its_table(tiny_decoder, tmp_path, capsys, causal_look):
    GemmaEncoder.from_decoder(tiny_decoder()).save_pretrained(tmp_path)
    causal_look()
    assert main(["verify", str(tmp_path)]) == 1
    printed, said = capsys.readouterr()
    assert [line.split()[0] for line in printed.splitlines() if "tokens see" in line] == ["NO"] * 4
    assert len(said.splitlines()) == 1
    with pytest.raises(VisibilityError, match="token 0 should depend on token 1"):
        GemmaEncoder.from_pretrained(tmp_path)
