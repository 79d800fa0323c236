"""Profiles and plans: a faulty profile is refused with its line; estimates against torch's, PEFT's and real counts."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from benchmarks import plan_check
from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.cli import main
from gemma_encoder.errors import InputError
from gemma_encoder.experiments import pace as pace_module
from gemma_encoder.experiments import plan
from gemma_encoder.experiments.pace import Pace, pace
from gemma_encoder.experiments.plan import activation_bytes, estimate
from gemma_encoder.experiments.run import adapted, run
from gemma_encoder.experiments.shapes import SHAPES, Shape, config_of, shape_of
from gemma_encoder.experiments.sizes import HUB, Work, work_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.lora import add_lora
from gemma_encoder.profiles import control_specs, load_profile, profile_names, specs, tasks_of
from gemma_encoder.tasks import get_task

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


def test_a_rate_may_be_written_with_an_exponent(written):
    assert specs(written(GOOD.replace("epochs: 2", "weight_decay: 2e-5")))[0].weight_decay == 2e-5


def test_a_profile_may_be_a_file_anywhere(tmp_path):
    (tmp_path / "of_mine.yaml").write_text(GOOD)
    assert load_profile(str(tmp_path / "of_mine.yaml"))["tasks"] == ["cola", "rte"]
    with pytest.raises(InputError, match=r"no profile file 'none\.yaml'; valid: a file, or gemma2-2b"):
        load_profile("none.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("epochs: 2", "epoch: 2", 6, "unknown setting 'epoch' (did you mean 'epochs'?)"),
        ("epochs: 2", "epochs: two", 6, "epochs 'two' is of type str; valid: int"),
        ("epochs: 2", "model: other", 6, "setting 'model' is given twice, first in line 2"),
        ("epochs: 2", "lora_alpha: 32.0", 6, "lora_alpha 32.0 with full fine-tuning"),
        ("epochs: 2", "batch_size: 32\nmicro_batch: 5", 7, "micro_batch 5 does not divide batch_size 32"),
        ("epochs: 2", "epochs: [2", 7, "expected ',' or ']'"),
        ("    epochs: 3", "    epochs: 0", 10, "epochs 0 is too small"),
        ("    epochs: 3", "    rate: 1", 10, "unknown setting 'rate'"),
        ("  rte:", "  rtee:", 9, "unknown task 'rtee'"),
        ("  rte:\n    epochs: 3", "  wnli:\n    epochs: 0", 10, "epochs 0 is too small"),
        ("[cola, rte]", "[cola, rtee]", 4, "unknown task 'rtee'"),
        ("[cola, rte]", "cola", 4, "tasks 'cola' is not valid; valid: list of str, not empty"),
        ("[0, 1]", "[0, one]", 5, "seeds [0, 'one'] is not valid"),
        ("data: builtin\n", "", 1, "setting 'data' is missing"),
        ("epochs: 2", "control: 7", 6, "control 7 is not valid; valid: a model, or ''"),
        ("epochs: 2", "glue_tasks: [copa]", 6, "unknown task 'copa'"),
        ("[0, 1]", "[0, 1, 1]", 5, "seeds [0, 1, 1] holds 1 more than once"),
        ("epochs: 2", "list_sizes: 8", 6, "list_sizes 8 is not valid; valid: list of int, not empty"),
        ("epochs: 2", "list_sizes: [8, 3.5]", 6, "list_sizes [8, 3.5] is not valid"),
        ("epochs: 2", "list_sizes: [8, 1]", 6, "list_size 1 is too small"),
        ("epochs: 2", "ranking_task: cola", 6, "unknown ranking task 'cola'; valid: msmarco, trec_dl"),
        ("epochs: 2", "ranking_task: [msmarco]", 6, "ranking_task ['msmarco'] is not valid; valid: a ranking task"),
        ("epochs: 2", "ranking_data: 7", 6, "ranking_data 7 is not valid; valid: 'builtin', 'hub', or a folder"),
        ("epochs: 2", "[a]: 2", 6, "found unhashable key"),
        ("epochs: 2", "epochs: !two 2", 6, "could not determine a constructor for the tag '!two'"),
        ("epochs: 2", "epochs: !!int two", 6, "'two' is not valid as int"),
        ("epochs: 2", "epochs: 2026-13-45", 6, "'2026-13-45' is not valid as timestamp"),
        ("epochs: 2", "epochs: 2026-12-24", 6, "epochs datetime.date(2026, 12, 24) is of type date; valid: int"),
        ("epochs: 2", "epochs: 2\x07", 6, "character U+0007 is not allowed in YAML"),
        ("epochs: 2", "epochs: *two", 6, "found undefined alias 'two'"),
        ("epochs: 2", "---\nepochs: 2", 6, "expected a single document in the stream, but found another document"),
    ],
)
def test_a_faulty_profile_is_refused_with_its_line(written, old, new, line, says):
    with pytest.raises(InputError) as caught:
        written(GOOD.replace(old, new, 1))
    assert f"profile 'mine', line {line}: " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    content = GOOD.replace("epochs: 2", "epochs: 2 # zwölf").encode("latin-1")
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_profile("mine", tmp_path)
    byte = 1 + content.index(b"\xf6")
    assert str(caught.value) == f"profile 'mine', line 6: not UTF-8 at byte {byte} of the file"


@pytest.mark.parametrize("text", ["", "# nothing\n", "- tiny\n"])
def test_a_profile_without_settings_is_refused(written, text):
    with pytest.raises(InputError, match="profile 'mine', line 1: no settings"):
        written(text)


def test_a_profile_may_say_what_is_ranked(written):
    ranking = {"ranking_task": "trec_dl", "ranking_data": "lists", "list_sizes": [8, 32]}
    said = "".join(f"{key}: {value}\n" for key, value in ranking.items())
    assert written(said + GOOD) == ranking | written(GOOD)


def test_the_profiles_are_those_of_the_paper_and_the_smaller_ones():
    assert set(profile_names()) == {"tiny", "small", "gemma3-270m", "gemma2-2b", "gemma2-9b"}


PACE = Pace(start=2.0, update=0.5, trained=0.01, evaluated=0.002, length=10, where="a machine of this test")


@pytest.fixture
def timed(monkeypatch):
    """Plans do not time this machine; the specs they would have timed."""
    asked = []
    monkeypatch.setattr(plan, "pace", lambda spec, work: asked.append(spec) or PACE)
    return asked


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid_and_can_be_planned_without_network(name, timed, capsys):
    profile = load_profile(name)
    assert len(specs(profile)) == len(tasks_of(profile)) * len(profile["seeds"])
    assert main(["plan", "--profile", name]) == 0
    said = capsys.readouterr().out
    for word in ("runs", "tokens", "FLOPs", "memory", "hours", "download", "licence"):
        assert word in said
    assert ("Gemma Terms of Use" in said) == name.startswith("gemma")
    assert bool(timed) == (name in ("tiny", "small"))
    assert ("on a machine of this test, timed now" if timed else "unknown on this machine: on a CPU") in said


def test_the_plan_counts_the_runs_of_the_control_too(timed, capsys):
    profile = load_profile("small")
    beside = control_specs(profile)
    assert {spec.model for spec in beside} == {profile["control"]}
    assert len(beside) == len(profile["seeds"]) * len({*profile["glue_tasks"], *profile["superglue_tasks"]})
    assert main(["plan", "--profile", "small"]) == 0
    assert f"native encoder:\nruns       {len(beside)}: cola" in capsys.readouterr().out
    assert timed[-1].model == profile["control"]
    assert control_specs(load_profile("tiny")) == []


@pytest.mark.parametrize("name", sorted(set(profile_names()) - {"tiny"}))
def test_a_profile_has_settings_for_every_task_that_a_notebook_may_choose(name):
    profile = load_profile(name)
    assert profile["ranking_data"] == "hub"
    for task in (*HUB, "trec_dl"):
        spec = specs({**profile, "tasks": [task]})[0]
        if get_task(task).kind == "ranking":
            sizes = {"msmarco": (max(profile["list_sizes"]), 0), "trec_dl": (32, 100)}  # a query of the hub has ten
            assert (spec.list_size, spec.candidates) == sizes[task]
        if task in HUB:
            assert estimate(spec, shape_of(spec.model), work_of(spec)).memory < 80e9


def test_a_model_that_does_not_fit_is_said_to(timed, capsys):
    main(["plan", "--profile", "gemma2-2b"])
    said = capsys.readouterr().out
    assert "on one L4: does not fit its 24 GB" in said
    assert "on one A100 80GB\n" in said


@pytest.mark.parametrize("model", SHAPES)
def test_a_shape_has_the_weights_that_transformers_would_make(model):
    with torch.device("meta"):
        made = AutoModel.from_config(config_of(model)).num_parameters()
    assert SHAPES[model].parameters == pytest.approx(made, rel=0.005)


def small_shape(config):
    return Shape(config.num_hidden_layers, config.hidden_size, 4, 2, 8, config.intermediate_size, config.vocab_size)


def test_flops_are_those_that_torch_counts(tiny_decoder, tiny_config):
    model = tiny_decoder()
    ids = torch.randint(3, 97, (4, 12))
    with FlopCounterMode(display=False) as counted:
        model(ids, use_cache=False).last_hidden_state.sum().backward()
    expected = 6 * small_shape(tiny_config()).multiplications(12) * ids.numel()
    assert expected == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_lora_is_as_large_as_peft_makes_it(tiny_decoder, tiny_config):
    model = add_lora(GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=2), rank=4, alpha=8)
    made = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    assert small_shape(tiny_config()).lora(4) == made


@pytest.mark.parametrize(
    "spec",
    [
        RunSpec(task="sst2", train_examples=16, epochs=2),
        RunSpec(task="msmarco", train_examples=8, epochs=1, list_size=3),
    ],
    ids=lambda spec: spec.task,
)
def test_the_tokens_are_those_that_a_run_counts(spec, tmp_path):
    found = estimate(spec, shape_of("tiny"), work_of(spec))
    assert found.tokens == run(spec, tmp_path).timing["train_tokens"]


def test_what_a_run_reads_is_counted_where_it_is_and_known_where_it_is_not():
    counted = work_of(RunSpec(task="mnli", train_examples=16))
    assert (counted.rows, counted.texts, len(counted.lengths)) == (16, 1, 16)
    assert counted.seconds > 0
    hub = work_of(RunSpec(task="copa", data="hub", train_examples=100))
    assert (hub.rows, hub.texts, hub.evaluated) == (100, 2, 2 * 100 * hub.length)
    # 68 characters and the names of three columns, at 4.2 characters a token and two signs a name
    assert hub.length == pytest.approx(68 / 4.2 + (7 + 8 + 6) / 4.2 + 3 * 2)
    held = work_of(RunSpec(task="copa", data="hub", evaluate_on="holdout"))
    assert (held.rows, held.evaluated) == (360, 2 * 40 * held.length)
    with pytest.raises(InputError, match="the size of task 'trec_dl' is not known without its data; valid: a data"):
        work_of(RunSpec(task="trec_dl", data="hub"))


SHAPE = Shape(layers=2, width=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab=97)


def test_seconds_are_those_of_the_start_the_updates_and_the_tokens():
    spec = RunSpec(task="copa", epochs=3, batch_size=4)
    work = Work(rows=10, texts=2, lengths=[8, 12], evaluated=100, seconds=1.5)
    # 3 x ceil(10 / 4) updates of 0.5, 3 x 10 x 2 x 10 tokens of 0.01, 3 x 100 of 0.002, start 2 and reading 1.5
    assert PACE.seconds(spec, work, SHAPE) == pytest.approx(9 * 0.5 + 600 * 0.01 + 300 * 0.002 + 3.5)
    # rows of 20 tokens: blocks of 2 x 8 x 4 x 3 + 3 x 8 x 16 weights, and maps of 2 x 2 x 4 a token
    twice = Work(rows=10, texts=2, lengths=[20], evaluated=100)
    longer = (1152 + 2 * 2 * 2 * 4 * 20) / (1152 + 2 * 2 * 2 * 4 * 10)
    assert PACE.seconds(spec, twice, SHAPE) == pytest.approx(4.5 + 2 + longer * (12 + 0.6))


def test_the_pace_follows_from_updates_of_two_sizes(monkeypatch):
    asked = []

    def update(model, spec, rows):
        asked.append((spec.batch_size, len(rows)))
        tokens = spec.batch_size * 10
        return 0.25 + 0.01 * tokens, tokens

    monkeypatch.setattr(pace_module, "_update", update)
    found = pace(RunSpec(task="rte", batch_size=8), Work(50, 1, [5, 15], 100))
    assert (found.update, found.trained) == pytest.approx((0.25, 0.01))
    assert asked == [(8, 32), (4, 16)]
    assert found.start > 0 and found.evaluated > 0 and "one thread" in found.where


def test_the_pace_of_a_real_model_is_measured_with_its_own_trainer():
    before = torch.get_num_threads()
    found = pace(RunSpec(task="msmarco", batch_size=2, candidates=5), Work(50, 2, [12, 20, 16], 100))
    assert min(found.start, found.evaluated, found.update + found.trained) > 0 <= min(found.update, found.trained)
    assert torch.get_num_threads() == before


def test_random_rows_have_the_given_lengths_and_no_bos_inside():
    rows = pace_module._rows(Work(3, 1, [4, 7.4], 1), 30, config_of("tiny"))["input_ids"][:]
    assert [len(row) for row in rows] == [4, 7] * 15
    assert all(config_of("tiny").bos_token_id not in row for row in rows)
    assert adapted(RunSpec(task="stsb")).config.decoder.vocab_size > max(map(max, rows))


def test_gradients_take_the_place_of_activations_unless_they_are_gathered():
    work = Work(rows=32, texts=1, lengths=[10], evaluated=0)
    # 2 blocks of 2 x 8 x 4 x 3 + 3 x 8 x 16, and 97 x 8 of the embeddings
    weights = 2 * (2 * 8 * 4 * 3 + 3 * 8 * 16) + 97 * 8
    # a row: 10 tokens of 12 x 8 + 4 x 16 + 3 x 2 x 4 numbers, 4 maps of 2 heads opened to twice the mean
    row = 2 * 4 * (10 * (96 + 64 + 24) + 4 * 2 * 20**2)
    longer = 2 * 4 * 10 * (96 + 64 + 24)  # one has twice the tokens
    whole = RunSpec(task="rte", batch_size=4)
    assert estimate(whole, SHAPE, work).memory == 12 * weights + 4 * row + longer
    assert estimate(replace(whole, micro_batch=2), SHAPE, work).memory == 16 * weights + 2 * row + longer


def test_the_heaviest_row_alone_is_the_peak_where_rows_hold_unequally_many_texts():
    lists = [[5, 9], [12] * 30, [7] * 4]
    texts = [text for row in lists for text in row]
    spec = RunSpec(task="record", batch_size=2, micro_batch=1)
    found, alone = (
        activation_bytes(SHAPE, spec, work)
        for work in (Work(3, len(texts) / 3, texts, 0, heaviest=360), Work(1, 30, [12] * 30, 0, heaviest=360))
    )
    # 2 blocks, 4 bytes, 12 x 8 + 4 x 16 + 3 x 2 x 4 numbers a token, 4 maps of 2 heads over 30 texts of 12
    assert found == alone == 2 * 4 * (360 * (96 + 64 + 24) + 4 * 2 * 30 * 12**2)


@pytest.mark.parametrize(
    "saving", [{"gradient_checkpointing": True}, {"micro_batch": 4}, {"lora_rank": 4, "lora_alpha": 8.0}]
)
def test_what_saves_memory_lowers_the_estimate(saving):
    given = {"task": "sst2", "model": "google/gemma-2-2b", "data": "hub"}
    shape, work = shape_of(given["model"]), Work(rows=100, texts=1, lengths=[256], evaluated=0)
    assert estimate(RunSpec(**given, **saving), shape, work).memory < estimate(RunSpec(**given), shape, work).memory


def test_the_check_of_plans_compares_the_least_and_says_what_is_not_within():
    found = {
        "estimated": [{"s": 30.0, "MB": 100.0}, {"s": 12.0, "MB": 100.0}, {"s": 13.0, "MB": 100.0}],
        "measured": [{"s": 19.0, "MB": 150.0}, {"s": 10.0, "MB": 140.0}, {"s": 11.0, "MB": 145.0}],
    }
    assert plan_check.verdict("tiny", found) == [
        "tiny, s: +20%, within 25% (estimated 30.0, 12.0, 13.0; measured 19.0, 10.0, 11.0)",
        "tiny, MB: -29%, NOT within 25% (estimated 100.0, 100.0, 100.0; measured 150.0, 140.0, 145.0)",
    ]


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="no shape is known of model 'owner/model'; valid: a checkpoint folder, jhu"):
        shape_of("owner/model")
