"""Profiles and plans: a faulty profile is refused with its line; estimates against torch's, PEFT's and real counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.cli import main
from gemma_encoder.errors import InputError
from gemma_encoder.experiments.plan import estimate, multiplications
from gemma_encoder.experiments.run import run
from gemma_encoder.experiments.shapes import SHAPES, Shape, shape_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.lora import add_lora
from gemma_encoder.profiles import load_profile, profile_names, specs

GOOD = """# a profile
model: tiny
data: builtin
tasks: [cola, rte]
seeds: [0, 1]
epochs: 2
per_task:
  cola: {learning_rate: 0.001}
  rte:
    epochs: 3
"""


@pytest.fixture
def written(tmp_path):
    """Function `(text)`: the settings of a profile of that text."""

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return load_profile("mine", tmp_path)

    return write


def test_the_settings_of_a_task_go_before_those_of_all(written):
    found = {(spec.task, spec.seed): spec for spec in specs(written(GOOD))}
    assert list(found) == [("cola", 0), ("cola", 1), ("rte", 0), ("rte", 1)]
    assert (found["cola", 1].epochs, found["cola", 1].learning_rate) == (2, 0.001)
    assert (found["rte", 0].epochs, found["rte", 0].learning_rate) == (3, RunSpec(task="rte").learning_rate)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("epochs: 2", "epoch: 2", 6, "unknown setting 'epoch' (did you mean 'epochs'?)"),
        ("epochs: 2", "epochs: two", 6, "epochs 'two' is a str; valid: int"),
        ("epochs: 2", "model: other", 6, "setting 'model' is given twice, first in line 2"),
        ("epochs: 2", "lora_alpha: 32.0", 6, "lora_alpha 32.0 with full fine-tuning"),
        ("epochs: 2", "batch_size: 32\nmicro_batch: 5", 7, "micro_batch 5 does not divide batch_size 32"),
        ("epochs: 2", "epochs: [2", 7, "expected ',' or ']'"),
        ("    epochs: 3", "    epochs: 0", 10, "epochs 0 is too small"),
        ("    epochs: 3", "    rate: 1", 10, "unknown setting 'rate'"),
        ("  rte:", "  mrpc:", 9, "unknown task 'mrpc'; valid: cola, rte"),
        ("[cola, rte]", "[cola, rtee]", 9, "unknown task 'rte'"),
        ("[cola, rte]", "cola", 4, "tasks 'cola' is not valid; valid: list of str, not empty"),
        ("[0, 1]", "[0, one]", 5, "seeds [0, 'one'] is not valid"),
        ("data: builtin\n", "", 1, "setting 'data' is missing"),
    ],
)
def test_a_faulty_profile_is_refused_with_its_line(written, old, new, line, says):
    with pytest.raises(InputError) as caught:
        written(GOOD.replace(old, new, 1))
    assert f"profile 'mine', line {line}: " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_profiles_are_those_of_the_paper_and_the_smaller_ones():
    assert set(profile_names()) == {"tiny", "small", "gemma3-270m", "gemma2-2b", "gemma2-9b"}


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid_and_can_be_planned_without_network(name, capsys):
    profile = load_profile(name)
    assert len(specs(profile)) == len(profile["tasks"]) * len(profile["seeds"])
    assert main(["plan", "--profile", name]) == 0
    said = capsys.readouterr().out
    for word in ("runs", "tokens", "FLOPs", "memory", "hours", "download", "licence"):
        assert word in said
    assert ("Gemma Terms of Use" in said) == name.startswith("gemma")


def test_a_model_that_does_not_fit_is_said_to(capsys):
    main(["plan", "--profile", "gemma2-2b"])
    said = capsys.readouterr().out
    assert "on one L4: does not fit its 24 GB" in said
    assert "on one A100 80GB\n" in said


FAMILY = {"jhu-clsp/ettin-decoder": "modernbert-decoder", "google/gemma-3": "gemma3_text", "google/gemma-2": "gemma2"}


@pytest.mark.parametrize("model", SHAPES)
def test_a_shape_has_the_weights_that_transformers_would_make(model):
    shape = SHAPES[model]
    family = next(family for start, family in FAMILY.items() if model.startswith(start))
    sizes = {"num_hidden_layers": shape.layers, "hidden_size": shape.width, "intermediate_size": shape.ffn}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    config = AutoConfig.for_model(family, vocab_size=shape.vocab, **sizes, **heads)
    with torch.device("meta"):
        made = AutoModel.from_config(config).num_parameters()
    assert shape.parameters == pytest.approx(made, rel=0.005)


def small_shape(config):
    return Shape(config.num_hidden_layers, config.hidden_size, 4, 2, 8, config.intermediate_size, config.vocab_size)


def test_flops_are_those_that_torch_counts(tiny_decoder, tiny_config):
    model = tiny_decoder()
    ids = torch.randint(3, 97, (4, 12))
    with FlopCounterMode(display=False) as counted:
        model(ids, use_cache=False).last_hidden_state.sum().backward()
    expected = 6 * multiplications(small_shape(tiny_config()), 12) * ids.numel()
    assert expected == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_lora_is_as_large_as_peft_makes_it(tiny_decoder, tiny_config):
    model = add_lora(GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=2), rank=4, alpha=8)
    made = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    assert small_shape(tiny_config()).lora(4) == made


def test_the_tokens_are_those_that_a_run_counts(tmp_path):
    spec = RunSpec(task="sst2", train_examples=16, epochs=2)
    assert estimate(spec).tokens == run(spec, tmp_path).timing["train_tokens"]


@pytest.mark.parametrize(
    "saving", [{"gradient_checkpointing": True}, {"micro_batch": 4}, {"lora_rank": 4, "lora_alpha": 8.0}]
)
def test_what_saves_memory_lowers_the_estimate(saving):
    given = {"task": "sst2", "model": "google/gemma-2-2b", "data": "hub"}
    assert estimate(RunSpec(**given, **saving)).memory < estimate(RunSpec(**given)).memory


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="no shape is known of model 'owner/model'; valid: a checkpoint folder, jhu"):
        shape_of("owner/model")
