"""Runs: what a spec accepts, that results are whole, cached and repeatable, that one failure leaves the rest alone."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.experiments import run as run_module
from gemma_encoder.experiments.run import TrainingError, run, split, train
from gemma_encoder.experiments.spec import PADDINGS, RunSpec
from gemma_encoder.experiments.store import load, run_folder, whole_folder
from gemma_encoder.experiments.sweep import SweepError, sweep

SPEC = RunSpec(task="sst2", train_examples=64, epochs=1, batch_size=16, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("task", "sst3", "unknown task 'sst3' (did you mean 'sst2'?)"),
        ("attention", "both", "unknown attention 'both'"),
        ("pooling", "max", "unknown pooling 'max'"),
        ("evaluate_on", "test", "unknown evaluate_on 'test'"),
        ("epochs", 0, "epochs 0 is too small"),
        ("epochs", 1.5, "epochs 1.5 is a float; valid: int"),
        ("seed", True, "seed True is a bool; valid: int"),
        ("padding", 1, "padding 1 is a int; valid: str"),
        ("padding", "both", "unknown padding 'both'; valid: left, none, right"),
        ("learning_rate", 0.0, "learning_rate 0.0"),
        ("learning_rate", float("nan"), "learning_rate nan"),
        ("ffn_dropout", 1.0, "ffn_dropout 1.0"),
        ("warmup", -0.1, "warmup -0.1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_valid_ones(field, value, says):
    with pytest.raises(InputError) as caught:
        replace(SPEC, **{field: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_read_and_never_computed_again(tmp_path, monkeypatch):
    first = run(SPEC, tmp_path)
    monkeypatch.setattr(run_module, "train", lambda spec: pytest.fail("trained again"))
    assert run(SPEC, tmp_path) == first
    files = {path.name for path in first.folder.iterdir()}
    parts = {"spec.json", "metrics.json", "timing.json", "environment.json", "curve.jsonl", "predictions.jsonl"}
    assert files == parts
    assert json.loads((first.folder / "metrics.json").read_text())["score"] == first.score
    rows = [json.loads(line) for line in (first.folder / "predictions.jsonl").read_text().splitlines()]
    right = sum(row["prediction"] == row["label"] for row in rows)
    assert 100 * right / len(rows) == pytest.approx(first.score)  # the stored predictions are the scored ones


def test_the_same_seed_gives_the_same_files_and_another_seed_does_not(tmp_path):
    one, two = (run(SPEC, tmp_path / name).folder for name in "ab")
    other = run(replace(SPEC, seed=1), tmp_path / "a").folder
    for name in ("metrics.json", "predictions.jsonl", "curve.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (one / "curve.jsonl").read_bytes() != (other / "curve.jsonl").read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"attention": "causal"}, {"ffn_dropout": 0.2}, {"train_examples": 65}])
def test_every_setting_has_its_own_folder(change, tmp_path):
    assert run_folder(replace(SPEC, **change), tmp_path) != run_folder(SPEC, tmp_path)


def test_a_changed_data_file_is_another_run(tmp_path):
    folder = tmp_path / "data" / "glue" / "sst2"
    folder.mkdir(parents=True)
    row = '{"sentence": "a fine day", "label": 1, "idx": 0}\n'
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text(row)
    spec = replace(SPEC, data=str(tmp_path / "data"))
    before = run_folder(spec, tmp_path)
    (folder / "train.jsonl").write_text(row + row)
    assert run_folder(spec, tmp_path) != before


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def fail():
        with whole_folder(tmp_path / "run") as folder:
            (folder / "metrics.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_half_result_and_can_be_run_again(tmp_path):
    code = (
        "from pathlib import Path; from gemma_encoder.experiments.run import run;"
        "from gemma_encoder.experiments.spec import RunSpec; print('started', flush=True);"
        f"run({replace(SPEC, train_examples=2000, epochs=50)!r}, Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    time.sleep(6)  # well into training, which takes minutes
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert load(replace(SPEC, train_examples=2000, epochs=50), tmp_path) is None
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert run(SPEC, tmp_path).folder.is_dir()


def test_holdout_rows_come_from_train_and_are_not_trained_on():
    whole = replace(SPEC, train_examples=0)
    rows, official = split(replace(whole, evaluate_on="holdout")), split(whole)
    texts = {name: set(part["sentence"]) for name, part in rows.items()}
    assert texts["validation"] <= set(official["train"]["sentence"])
    assert not texts["validation"] & texts["train"]
    assert len(rows["train"]) + len(rows["validation"]) == len(official["train"])


def test_a_loss_that_is_not_a_number_stops_the_run():
    with pytest.raises(TrainingError, match=r"loss is .* at step"):
        train(replace(SPEC, learning_rate=1e30, train_examples=320))


def test_a_sweep_keeps_order_runs_equal_specs_once_and_survives_a_failing_run(tmp_path):
    good, other, bad = SPEC, replace(SPEC, seed=1), replace(SPEC, learning_rate=1e30, train_examples=320)
    with pytest.raises(SweepError, match="1 of 3 runs failed") as caught:
        sweep([bad, good, other, good], tmp_path, workers=2)
    assert list(caught.value.failures) == [bad]
    results = sweep([other, good, other], tmp_path, workers=2)
    assert [result.spec for result in results] == [other, good, other]
    assert results[0] == results[2]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_a_sweep_gives_what_a_single_run_gives(tmp_path):
    alone = run(SPEC, tmp_path / "alone").folder
    pooled = sweep([SPEC], tmp_path / "pool", workers=1)[0].folder
    assert (alone / "metrics.json").read_bytes() == (pooled / "metrics.json").read_bytes()


def test_without_dropout_the_side_of_padding_does_not_change_a_run(tmp_path):
    still = replace(SPEC, attention_dropout=0.0, ffn_dropout=0.0)
    losses = [run(replace(still, padding=name), tmp_path).curve[-1]["train_loss"] for name in PADDINGS]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
