"""The control without pretraining: the same architecture and tokenizer, weights of its own draw."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from gemma_encoder import InputError
from gemma_encoder.experiments.untrained import untrained
from gemma_encoder.loading import checkpoint_path, load_tokenizer


def test_it_has_the_shape_and_tokenizer_of_the_decoder_and_other_weights(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    control = AutoModelForCausalLM.from_pretrained(untrained("tiny", tmp_path / "control"), dtype=torch.float32)
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers go on as if nothing had been drawn
    decoder = AutoModelForCausalLM.from_pretrained(checkpoint_path("tiny"), dtype=torch.float32)
    assert {name: weight.shape for name, weight in control.named_parameters()} == {
        name: weight.shape for name, weight in decoder.named_parameters()
    }
    drawn, learnt = control.model.embed_tokens.weight, decoder.model.embed_tokens.weight
    assert not torch.isclose(drawn, learnt).all(dim=1).any()
    text = "Anna pushed Tom."
    assert load_tokenizer(tmp_path / "control")(text)["input_ids"] == load_tokenizer("tiny")(text)["input_ids"]


def test_a_seed_fixes_the_draw(tmp_path):
    files = [
        untrained("tiny", tmp_path / name, seed) / "model.safetensors" for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no model at 'nowhere'"):
        untrained("nowhere", tmp_path / "control")
    assert not (tmp_path / "control").exists()
