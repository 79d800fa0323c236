"""The benchmarks compare like with like, take turns, and write what they measured; no speed is tested here."""

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as command
from benchmarks import anatomy, contenders, gpu, gpu_attention, gpu_pretraining, gpu_trainer, training, tricks, workload
from benchmarks.report import by_part, frame, markdown, render, write_report
from benchmarks.reproduce import rows_of
from benchmarks.targets import GPU_CASE, TARGETS, measured, verdicts
from benchmarks.timing import LEAST_ROUNDS, MOST_ROUNDS, Row, own_processes, ratios, take_turns
from gemma_encoder.errors import InputError
from gemma_encoder.experiments.pretrain import LENGTH
from gemma_encoder.experiments.shapes import shape_in
from gemma_encoder.paths import ROOT
from gemma_encoder.reports.html import check_html

ROWS = [
    Row("training", "tiny, SST-2", "kit", [1.0, 2.0, 4.0], tokens=100, examples=10),
    Row("training", "tiny, SST-2", "other", [2.0, 6.0, 4.0], tokens=100, examples=10, note="differs"),
    Row("memory", "tiny, QNLI", "kit", value=512.0, unit="MiB at most"),
    Row("scaling", "tiny, 1 row", "forward and backward", [0.5]),
    Row("scaling", "tiny, 1 row", "utilisation", value=12.5, unit="% of the ceiling"),
]


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    seen = []

    def contender(name):
        def run():
            seen.append(name)
            return float(len(seen))

        return run

    taken = take_turns({name: contender(name) for name in "abc"}, budget=0)
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab"
    assert taken == {"a": [4.0, 9.0, 11.0], "b": [5.0, 7.0, 12.0], "c": [6.0, 8.0, 10.0]}
    assert len(taken["a"]) == LEAST_ROUNDS


def test_rounds_end_at_the_greatest_number_however_much_time_is_left():
    assert len(take_turns({"a": lambda: 1.0}, budget=1e9)["a"]) == MOST_ROUNDS


def test_every_call_has_a_process_of_its_own():
    with own_processes({"a": os.getpid, "b": os.getpid}, preload="benchmarks.timing") as processes:
        first, again = ({name: call() for name, call in processes.items()} for _ in range(2))
    assert first == again
    assert len({os.getpid(), *first.values()}) == 3


def test_contenders_are_trained_and_only_those_of_the_kit_keep_freed_memory(monkeypatch):
    told = []
    monkeypatch.setattr(training, "keep_freed_memory", lambda: told.append("kept"))
    for name in (contenders.DYNAMIC, contenders.GROUPED, contenders.CROSS):
        training.as_used(name)
    assert told == []
    training.as_used(contenders.KIT)
    assert told == ["kept"]
    turns = {"tiny": (contenders.KIT, contenders.GROUPED)}
    rows = training.measure("tiny", "SST-2", turns, None, steps=1, starts=2, budget=0)
    assert [(row.name, len(row.seconds), row.examples) for row in rows] == [(each, 2, 32) for each in turns["tiny"]]


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("task", ["SST-2", "MS MARCO"])
def test_the_two_stacks_that_are_compared_compute_the_same(task):
    assert contenders.disagreement("tiny", workload.work(task, 6)) < 1e-6


def test_another_window_would_be_noticed(monkeypatch):
    class Wider(contenders.GemmaEncoderForSequenceClassification):
        @classmethod
        def from_decoder(cls, decoder, **settings):
            decoder.config.sliding_window += 1
            return super().from_decoder(decoder, **settings)

    monkeypatch.setattr(contenders, "GemmaEncoderForSequenceClassification", Wider)
    assert contenders.disagreement("tiny", workload.work("MS MARCO", 6)) > 1e-6


def test_all_contenders_train_on_the_same_rows_with_the_same_optimiser(monkeypatch):
    work, seen = workload.work("SST-2", 8), {}
    for name in (contenders.KIT, contenders.DYNAMIC, contenders.FULL, contenders.GROUPED):
        trainer = contenders.contender(name, "tiny", work, 4)()
        rows = [row for batch in trainer.get_train_dataloader() for row in batch["attention_mask"].sum(1).tolist()]
        widths = {batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()}
        trainer.create_optimizer_and_scheduler(2)
        group = trainer.optimizer.param_groups[0]
        seen[name] = sorted(rows), type(trainer.optimizer), group["lr"], group["betas"], group["weight_decay"]
        assert (widths == {work.max_length}) == (name == contenders.FULL)
    assert len(set(map(str, seen.values()))) == 1
    assert sum(seen[contenders.KIT][0]) == work.tokens


def test_grouping_by_length_is_that_of_a_long_training_set():
    pool = workload.work("SST-2", training.POOL * training.BATCH)
    rows = training.like_length(pool, 6)
    assert len(rows.ids) == 6 * training.BATCH
    assert {tuple(ids) for ids in rows.ids} <= {tuple(ids) for ids in pool.ids}
    assert rows.tokens / 6 == pytest.approx(pool.tokens / training.POOL, rel=0.1)
    trainer = contenders.contender(contenders.GROUPED, "tiny", rows, training.BATCH)()
    batches = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
    assert sum(map(torch.numel, batches)) < 1.25 * rows.tokens
    whole = training.like_length(pool, training.POOL)
    assert sorted(whole.ids) == sorted(pool.ids)


def test_fixed_width_fills_up_with_slots_without_a_token():
    batch = contenders.fixed_width([{"input_ids": [1, 5], "labels": 0}, {"input_ids": [1, 5, 6], "labels": 1}], 5)
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["input_ids"].shape == (2, 5)
    assert batch["labels"].tolist() == [0, 1]


def test_halves_keep_every_word():
    assert contenders.halves(["a b c", "d e"]) == [("a", "b c"), ("d", "e")]


def test_parts_of_a_step_add_up():
    found = anatomy.parts("tiny", contenders.KIT, workload.work("SST-2", 8), 4)
    assert tuple(found) == anatomy.PARTS
    assert all(seconds > 0 for seconds in found.values())


def test_operations_of_one_token_count_every_weight_of_the_blocks():
    model = workload.upstream("tiny").base_model
    weights = sum(p.numel() for name, p in model.named_parameters() if "layers." in name and p.dim() == 2)
    attention = 12 * 4 * 4 * 32  # layers, heads, head width; one pair
    assert shape_in(model.config).training([1]) == 6 * weights + attention


def test_utilisation_counts_no_more_than_is_computed():
    model, lengths = contenders.kit_model("tiny").train(), [5, 9, 12, 30]
    anatomy.update(model, lengths)  # what a first call computes besides
    with FlopCounterMode(display=False) as counted:
        anatomy.update(model, lengths)
    asked = anatomy.needed(shape_in(workload.config_of("tiny")), lengths)
    assert 0.8 * counted.get_total_flops() < asked < counted.get_total_flops()


def test_recorded_lengths_are_lognormal_within_limits():
    fit = workload.pd.read_csv(workload.LENGTHS, index_col="task")
    assert set(fit.index) == set(workload.FILES)
    lengths = torch.tensor(workload.sample("SST-2", 4000)).float()
    assert lengths.median() == pytest.approx(1 + workload.math.exp(fit.loc["SST-2", "log_mean"]), abs=1)
    assert lengths.min() >= workload.SHORTEST
    assert lengths.max() <= workload.MAX_LENGTH["SST-2"]


def test_texts_have_the_lengths_they_were_asked_to_have():
    work = workload.work("QNLI", 20)
    asked = workload.sample("QNLI", 20)
    assert [len(row) for row in work.ids] == asked


def test_real_lengths_are_those_of_the_rendered_rows(tmp_path):
    (tmp_path / "msmarco").mkdir()
    record = {"query": "why", "passages": [{"text": "because"}, {"text": "so"}]}
    with workload.gzip.open(tmp_path / "msmarco/trec_dl19.jsonl.gz", "wt") as file:
        file.write(json.dumps(record) + "\n")
    rows = ["query: why passage: because", "query: why passage: so"]
    assert workload.real_characters("MS MARCO", tmp_path) == [len(row) for row in rows]
    assert sorted(workload.sample("MS MARCO", 2, tmp_path)) == sorted(round(1 + len(row) / 4.2) for row in rows)


def test_lengths_that_a_folder_lacks_are_those_of_the_fit_and_said(tmp_path):
    with pytest.raises(InputError, match=r"no data set in folder 'bare'; valid: .*glue/mnli/train.jsonl.gz"):
        command.facts(tmp_path / "bare", quick=True)
    (tmp_path / "glue/mnli").mkdir(parents=True)
    with workload.gzip.open(tmp_path / "glue/mnli/train.jsonl.gz", "wt") as file:
        for letters in (20, 60):
            file.write(json.dumps({"premise": "p" * letters, "hypothesis": "h" * letters}) + "\n")
    told = command.facts(tmp_path, quick=True)["lengths"]
    assert told.startswith("real rows; SST-2: lognormal fits")
    assert "MNLI" not in told
    assert workload.sample("QNLI", 9, tmp_path) == workload.sample("QNLI", 9)
    before, after = workload.pd.read_csv(workload.LENGTHS, index_col="task"), workload.fit(tmp_path)
    assert after.loc["MNLI", "rows"] == 2
    workload.pd.testing.assert_frame_equal(after.drop("MNLI"), before.drop("MNLI"))


def test_a_table_has_medians_and_factors_of_the_first_row():
    table = frame(by_part(ROWS)["training"])
    assert table["median"].tolist() == ["2000.0 ms", "4000.0 ms"]
    assert table["times the seconds of the first"].iloc[1] == "2.00 (1.00 to 3.00)"
    assert table["tokens/s"].tolist() == ["50", "25"]


def test_the_page_is_whole_and_holds_every_row(tmp_path):
    write_report(ROWS, {"processor": "a <b>"}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert check_html(text) == []
    assert "differs" in text
    assert "a &lt;b&gt;" in text
    assert "<code>kit, mean pooling</code>" in text


def test_the_command_writes_the_rows_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "PARTS", {"training": lambda data, quick: ROWS[:2]})
    assert command.main(["--quick", "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [Row(**row) for row in stored["parts"]["training"]["rows"]] == ROWS[:2]
    assert "2.00 (1.00 to 3.00)" in (tmp_path / "results.md").read_text()
    for file in tmp_path.iterdir():
        assert str(tmp_path) not in file.read_text()


def test_an_interrupted_run_keeps_the_parts_it_finished(tmp_path, monkeypatch, capsys):
    def interrupted(data, quick):
        raise KeyboardInterrupt

    parts = {"training": lambda data, quick: ROWS[:2], "memory": interrupted}
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.main(["--quick", "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    parts["memory"] = lambda data, quick: ROWS[2:3]
    assert command.main(["memory", "--quick", "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert [Row(**row) for part in stored.values() for row in part["rows"]] == ROWS[:3]
    assert check_html((tmp_path / "report.html").read_text()) == []
    assert command.main(["memory", "--out", str(tmp_path)]) == 0  # not quick: nothing that it could stand beside
    assert list(json.loads((tmp_path / "results.json").read_text())["parts"]) == ["memory"]


def test_reproduce_is_measured_only_by_name(tmp_path, monkeypatch):
    ran = []
    for part in command.PARTS:
        monkeypatch.setitem(command.PARTS, part, lambda data, quick, part=part: ran.append(part) or ROWS[:2])
    command.main(["--out", str(tmp_path)])
    assert "reproduce" not in ran
    assert set(ran) == set(command.PARTS) - {"reproduce"}
    command.main(["reproduce", "--out", str(tmp_path)])
    assert ran[-1] == "reproduce"


def test_reproduce_is_taken_apart_from_what_the_runner_says():
    said = "[1/2] 01_attention_masks: ok, 12 s\n[2/2] 02_pooling: ok, 30 s\n"
    timings = [{"train_seconds": 4.0, "process_peak_mib": 700.0}, {"train_seconds": 5.0, "process_peak_mib": 900.0}]
    found = {row.name: row.value for row in rows_of(45.0, said, timings)}
    assert found == {
        "whole": 45.0,
        "01_attention_masks": 12.0,
        "02_pooling": 30.0,
        "outside of the notebooks": 3.0,
        "training, summed over runs": 9.0,
        "memory of the largest process": 900.0,
    }


def test_a_target_is_reached_or_missed_by_the_rows():
    rows = [
        Row("training", "tiny, SST-2", contenders.KIT, [1.0, 2.0, 1.0]),
        Row("training", "tiny, SST-2", contenders.DYNAMIC, [1.9, 3.4, 2.0]),
        Row("training", "tiny, SST-2, others", contenders.KIT, [1.0, 2.0, 1.0]),
        Row("training", "tiny, SST-2, others", contenders.FULL, [3.0, 6.0, 5.0]),
        Row("anatomy", f"tiny, SST-2, {contenders.KIT}", "everything else", value=10.0),
        Row("scaling", "30M, SST-2 lengths", "utilisation", value=60.0),
    ]
    table = verdicts(rows)
    assert table["verdict"].tolist() == ["reached in the median", "missed", "missed", "reached"]
    assert table["measured"].tolist() == ["1.90", "3.00", "10.00", "60.00"]
    assert table["rounds"].tolist()[0] == "1.70 to 2.00"
    assert all(measured(target, []) is None for target in TARGETS)
    assert "missed" in markdown(rows, {})


def test_a_target_beside_a_row_that_was_not_measured_is_not_judged():
    rows = [Row("gpu", GPU_CASE, gpu.PACKED, [1.0, 1.0]), Row("gpu", GPU_CASE, gpu.UPSTREAM, [1.5, 1.5])]
    assert verdicts(rows)["measured"].tolist() == ["1.50"]
    table = verdicts([*rows, Row("gpu", GPU_CASE, gpu.COMPILED, [0.5, 0.6])])
    assert table["measured"].tolist() == ["1.50", "2.75"]
    assert table["verdict"].tolist() == ["missed", "reached"]


def test_what_was_measured_beside_a_time_stands_in_its_line():
    rows = [
        Row("gpu", "case", "a", [1.0], 10, 2),
        Row("gpu", "case", "b", note="failed: no room"),
        Row("gpu", "case: memory", "a", value=3.0, unit="GiB", note="at most"),
        Row("gpu", "other: memory", "c", value=4.0, unit="GiB"),
    ]
    lines = frame(rows).fillna("").to_dict("records")
    assert [line["what"] for line in lines] == ["a", "b", "c"]
    assert (lines[0]["memory"], lines[0]["note"], lines[0]["median"]) == ("3.00 GiB", "at most", "1000.0 ms")
    assert lines[1]["note"] == "failed: no room"
    assert (lines[2]["case"], lines[2]["value"]) == ("other: memory", "4.00 GiB")


@pytest.mark.parametrize("name", ["passes", "kernels"])
def test_a_trick_computes_what_goes_without_it(name, monkeypatch):
    """The gradients of both sides of a pair, dropout off, over states that are made once."""
    states = tricks._states(512)
    monkeypatch.setattr(tricks, "_states", lambda width: states)
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda weights, *args, **settings: weights)
    scaled = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, dropout_p, scale: scaled(*args, dropout_p=0.0, scale=scale),
    )
    gradients = []
    for call in getattr(tricks, name)(512).values():
        call()
        gradients.append([state.grad.clone() for state in states[0]])
        for state in states[0]:
            state.grad = None
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_an_unknown_part_is_one_line_and_exit_code_2(capsys, tmp_path):
    assert command.main(["trainings", "--out", str(tmp_path)]) == 2
    assert "'trainings'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.fixture
def uncompiled(monkeypatch):
    """No GPU, and no compiler, which takes minutes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "compile", lambda call, **settings: call)


def of_gpu(tmp_path, *arguments):
    sizes = ["--shape", "tiny", "--task", "SST-2", "--batch", "2", "--updates", "1", "--out", str(tmp_path)]
    assert gpu.main([*arguments, *sizes]) == 0
    return json.loads((tmp_path / "results.json").read_text())


def test_the_gpu_script_ends_without_a_gpu_and_writes_the_rows_of_every_part(uncompiled, tmp_path):
    found = of_gpu(tmp_path)
    assert "no GPU figure has been measured" in found["environment"]["GPU"]
    assert list(found["parts"]) == ["gpu tiny, SST-2, 2 rows", "gpu attention", "gpu pretraining"]
    rows = [Row(**row) for part in found["parts"].values() for row in part["rows"]]
    timed, failed = {row.name for row in rows if row.seconds}, {row.name for row in rows if "failed" in row.note}
    assert failed == {  # neither kernel is there
        "transformers, dynamic padding, FlashAttention 2 without attention dropout",
        "two passes, compiled",
    }
    assert timed >= {setting.name for setting in gpu.SETTINGS if not setting.flash}
    assert timed >= {"the formula", "bfloat16 passes, compiled"}
    assert not any(row.unit == "GiB" for row in rows)
    render(tmp_path)
    assert "failed" in (tmp_path / "results.csv").read_text()
    table = (tmp_path / "results.md").read_text()
    assert "failed" in table
    upstream = next(line for line in table.splitlines() if f"| {gpu.UPSTREAM} |" in line)
    assert " to " in upstream, "no factor against the first row of the case"


def test_the_gpu_script_imports_nothing_of_notebooks_and_reports():
    lacking = "datasets evaluate papermill nbformat nbclient nbconvert IPython jupyter_client matplotlib seaborn "
    lacking += "latex2mathml sentence_transformers"
    code = (
        f"import sys, importlib; [sys.modules.__setitem__(name, None) for name in {lacking.split()!r}]; "
        "importlib.import_module('benchmarks.gpu')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_gpu_run_that_is_killed_leaves_every_row_it_measured(uncompiled, tmp_path, monkeypatch):
    rows = [Row("gpu", "case", name, [1.0]) for name in "ab"]

    def killed(options, device):
        yield rows
        raise KeyboardInterrupt

    monkeypatch.setitem(gpu.PARTS, "fine-tuning", killed)
    with pytest.raises(KeyboardInterrupt):
        of_gpu(tmp_path, "fine-tuning")
    stored = json.loads((tmp_path / "results.json").read_text())["parts"]["gpu tiny, SST-2, 2 rows"]["rows"]
    assert [Row(**row) for row in stored] == rows


def test_nothing_of_a_gpu_run_begins_when_the_time_is_over(uncompiled, tmp_path, capsys):
    parts = of_gpu(tmp_path, "pretraining", "attention", "--seconds", "0")["parts"]
    assert list(parts) == ["gpu pretraining"]
    assert len(parts["gpu pretraining"]["rows"]) == len(gpu_pretraining.WAYS), "what was measured together is stored"
    assert "are over" in capsys.readouterr().err


def test_runs_of_several_tasks_stand_side_by_side(uncompiled, tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "fine-tuning", lambda options, device: iter([ROWS[:1]]))
    of_gpu(tmp_path, "fine-tuning", "--lora", "2")
    assert list(of_gpu(tmp_path, "fine-tuning")["parts"]) == [
        "gpu tiny, SST-2, 2 rows, LoRA 2",
        "gpu tiny, SST-2, 2 rows",
    ]


@pytest.mark.parametrize("seed_shift", [0, 1])
def test_the_proof_of_the_two_passes_tells_rounding_from_other_pairs(uncompiled, monkeypatch, seed_shift):
    monkeypatch.setattr(sys.modules["torch.nn.attention.flex_attention"], "_validate_device", lambda *states: None)
    drawn = gpu_attention.kept
    monkeypatch.setattr(gpu_attention, "kept", lambda rate, seed, *sizes: drawn(rate, seed + seed_shift, *sizes))
    torch.manual_seed(0)
    shapes = ((2, 4, 64, 32), (2, 2, 64, 32), (2, 2, 64, 32))
    states = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    (plain,), (passes,) = gpu_attention.proof("case", states, 32**-0.5)
    assert (passes.value < 2 * plain.value) == (not seed_shift)


def test_pretraining_on_a_gpu_has_the_rows_of_the_kits_own():
    assert gpu_pretraining.LENGTH == LENGTH


def test_the_gpu_script_trains_lora_matrices_only():
    for setting in (gpu.SETTINGS[0], gpu.SETTINGS[2]):
        model = gpu.build(setting, "tiny", 2, torch.device("cpu"))
        trained = [name for name, each in model.named_parameters() if each.requires_grad]
        assert all("lora_" in name or "head." in name or "score" in name for name in trained)
        assert any("lora_" in name for name in trained)


def test_both_sides_are_compiled_layer_by_layer(monkeypatch):
    compiled = []

    def record(call, **how):
        compiled.append((type(call.__self__).__name__, how["dynamic"]))
        return call

    monkeypatch.setattr(torch, "compile", record)
    for upstream in (False, True):
        gpu.build(gpu.Setting("", upstream=upstream, compiled=True), "tiny", 0, torch.device("cpu"))
    assert compiled == 2 * 4 * [("Gemma2DecoderLayer", True)]


def test_trainer_makes_the_updates_of_the_plain_loop(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device, rows, seen = torch.device("cpu"), gpu.batches("SST-2", 2, 3, 512, None), []
    model = gpu.build(gpu.SETTINGS[0], "tiny", 0, device)
    model.register_forward_pre_hook(lambda model, inputs, batch: seen.append(batch), with_kwargs=True)
    seconds = gpu_trainer.by_trainer(model, rows, device)
    assert len(seconds) == len(rows) and all(took > 0 for took in seconds)
    assert len(seen) == 3 * len(rows)
    for batch, row in zip(seen, 3 * rows, strict=True):
        assert all(torch.equal(batch[name], value) for name, value in row.items())


def test_what_fails_on_the_gpu_is_a_line_that_says_why(monkeypatch):
    def fails(*arguments):
        raise MemoryError("full\nsecond line")

    monkeypatch.setattr(gpu, "build", fails)
    options = argparse.Namespace(shape="tiny", task="SST-2", batch=2, lora=0)
    found = gpu.measure(gpu.SETTINGS[0], options, [], torch.device("cpu"), 1.0)
    assert found == [Row("gpu", "tiny, SST-2, 2 rows", "kit, packed", note="failed: MemoryError: full second line")]


def test_a_large_shape_without_a_gpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--shape", "2b"]) == 2
    assert "valid without one: 'tiny'" in capsys.readouterr().err


def test_batches_of_random_tokens_have_the_sampled_lengths():
    rows = gpu.batches("SST-2", 2, 3, 512, None)
    assert [row["attention_mask"].sum().item() for row in rows] == [
        sum(workload.sample("SST-2", 6)[at : at + 2]) for at in (0, 2, 4)
    ]
    assert set(rows[0]) == {"input_ids", "attention_mask", "labels"}
    assert rows[0]["labels"].tolist() == [0, 1]
