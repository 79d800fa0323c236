"""What only a GPU can show: vectors, proofs, updates and runs are there what they are on the CPU. Skipped without one.

More of them stand beside their CPU twins: `python -m pytest tests/test_gpu.py tests/test_attention.py -k gpu`.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch

from gemma_encoder import GemmaEncoderForSequenceClassification, check_visibility, embed, load_tokenizer, predict
from gemma_encoder.compiled import compile_layers
from gemma_encoder.experiments.run import run
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.families import attention_modules
from gemma_encoder.lora import add_lora, merge_lora
from gemma_encoder.model import encoder_of
from gemma_encoder.verify import check_padding

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
TEXTS = ["a fine film", "a long and dull film about nothing much", "no", "it was what it was, and that is all of it"]
SPEC = RunSpec(task="sst2", train_examples=64, epochs=1, batch_size=16, learning_rate=1e-3)


def classifier(**settings):
    """The tiny decoder adapted, without dropout: where it is trained, it gives the same anywhere."""
    torch.manual_seed(0)
    settings = {"attention_dropout": 0.0, "ffn_dropout": 0.0} | settings
    return GemmaEncoderForSequenceClassification.from_decoder("tiny", num_labels=2, **settings)


def update(model, device):
    """Loss and gradients of one batch, on the CPU."""
    model.to(device).train().zero_grad()
    batch = load_tokenizer("tiny")(TEXTS, padding=True, return_tensors="pt")
    batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    loss = model(**batch, labels=torch.tensor([1, 0, 0, 1], device=device)).loss
    loss.backward()
    found = {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
    return found | {"loss": loss.detach().cpu()}


def assert_close(found, expected, relative=1e-3):
    """Every tensor, by its largest difference over the largest value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= relative * value.abs().max() + 1e-6, name


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "query-probe", "kv-probe"])
@pytest.mark.parametrize("unpadded", [True, False])
def test_vectors_and_answers_are_those_of_the_cpu(pooling, unpadded):
    model, tokenizer = classifier(pooling=pooling, unpadded=unpadded), load_tokenizer("tiny")
    expected = embed(model, tokenizer, TEXTS), predict(model, tokenizer, TEXTS)
    model.cuda()
    for found, value in zip((embed(model, tokenizer, TEXTS), predict(model, tokenizer, TEXTS)), expected, strict=True):
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "bidirectional-last-2", "prefix-3"])
def test_the_proofs_hold(attention):
    model = classifier(attention=attention).cuda()
    check_visibility(model)  # an error where the influence is not that of the mask
    for padding in ("none", "left", "right"):
        check_padding(model, padding)


@pytest.mark.parametrize("way", ["eager", "checkpointing", "compiled", "lora"])
def test_an_update_is_that_of_the_cpu(way):
    model = classifier()
    if way == "lora":
        model = add_lora(model, rank=4)
    here, passes = update(copy.deepcopy(model), "cpu"), []
    if way == "checkpointing":
        model.activation_checkpointing_enable()
    if way == "compiled":
        compile_layers(model)
    else:
        attention_modules(encoder_of(model).backbone)[0].register_forward_hook(lambda *args: passes.append(1))
    assert_close(update(model, "cuda"), here)
    assert len(passes) == {"eager": 1, "lora": 1, "checkpointing": 2, "compiled": 0}[way]


def test_a_model_with_lora_is_merged_there():
    model = add_lora(classifier(), rank=4).cuda()
    before = predict(model, load_tokenizer("tiny"), TEXTS)
    torch.testing.assert_close(predict(merge_lora(model), load_tokenizer("tiny"), TEXTS), before, atol=1e-4, rtol=1e-3)


def test_a_model_that_was_trained_there_is_loaded_anywhere(tmp_path):
    result = run(replace(SPEC, precision="bfloat16"), tmp_path / "runs", keep=tmp_path / "model")
    assert result.environment["device"] == torch.cuda.get_device_name()
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "model") for kind in (type(classifier()), type(load_tokenizer("tiny")))
    )
    here = predict(model, tokenizer, TEXTS)
    torch.testing.assert_close(predict(model.cuda(), tokenizer, TEXTS), here, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"precision": "bfloat16"},
        {"micro_batch": 8, "gradient_checkpointing": True},
        {"lora_rank": 4, "lora_alpha": 8.0},
        {"compiled": True},
        {"compiled": True, "precision": "bfloat16"},
        {"padding": "left"},
        {"task": "copa"},
        {"task": "stsb"},
        {"task": "msmarco", "batch_size": 4},
    ],
    ids=lambda change: ", ".join(map(str, change.values())),
)
def test_a_run_is_made_there(change, tmp_path):
    result = run(replace(SPEC, **change), tmp_path)
    assert result.environment["device"] == torch.cuda.get_device_name()
    assert all(map(math.isfinite, result.metrics.values()))
    assert result.curve and all(math.isfinite(point["validation_loss"]) for point in result.curve)
    assert 0 < result.timing["gpu_peak_mib"] <= torch.cuda.get_device_properties(0).total_memory / 2**20
