"""Runs: what a spec accepts, that results are whole, cached and repeatable, that one failure leaves the rest alone."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from gemma_encoder import load_model, load_tokenizer, predict
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
    monkeypatch.setattr(run_module, "train", lambda *given: pytest.fail("trained again"))
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


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from gemma_encoder.experiments import run as module
from gemma_encoder.experiments.spec import RunSpec

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

module.CHECKPOINT_SECONDS = 0
trainer = module.Trainer
module.Trainer = lambda *args, callbacks, **kwargs: trainer(*args, callbacks=[*callbacks, Kill()], **kwargs)
module.run({spec!r}, Path({root!r}))
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 8 updates in 2 epochs, and the model it kept."""
    folder = tmp_path_factory.mktemp("whole")
    return run(replace(SPEC, epochs=2), folder / "runs", keep=folder / "model"), folder / "model"


@pytest.mark.parametrize("step", [3, 4], ids=["within an epoch", "between two"])
def test_a_long_run_that_is_killed_goes_on_where_it_was_and_ends_the_same(tmp_path, uninterrupted, step):
    (whole, model), root = uninterrupted, tmp_path / "runs"
    code = KILLED.format(step=step, spec=whole.spec, root=str(root))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert load(whole.spec, root) is None
    assert all(path.name.startswith(".") for path in root.iterdir())  # nothing that could be taken for a result
    on = run(whole.spec, root, keep=tmp_path / "model")
    assert on.environment["resumed"] == "True" and whole.environment["resumed"] == "False"
    for name in ("metrics.json", "predictions.jsonl", "curve.jsonl"):
        assert (on.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", model))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert [path.name for path in root.iterdir()] == [on.folder.name]  # no checkpoint is left over


def test_a_kept_model_gives_the_stored_predictions(tmp_path):
    result = run(SPEC, tmp_path / "runs", keep=tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    logits = predict(model, tokenizer, list(split(SPEC)["validation"]["sentence"]))
    rows = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    assert logits.argmax(dim=1).tolist() == [row["prediction"] for row in rows]
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"] for row in rows]))
    assert result.curve[-1]["validation_loss"] == pytest.approx(losses.item(), rel=1e-4)
    with pytest.raises(InputError, match="is there already; valid: a new one"):
        run(SPEC, tmp_path / "runs", keep=tmp_path / "model")


def test_holdout_rows_come_from_train_and_are_not_trained_on():
    whole = replace(SPEC, train_examples=0)
    rows, official = split(replace(whole, evaluate_on="holdout")), split(whole)
    texts = {name: set(part["sentence"]) for name, part in rows.items()}
    assert texts["validation"] <= set(official["train"]["sentence"])
    assert not texts["validation"] & texts["train"]
    assert len(rows["train"]) + len(rows["validation"]) == len(official["train"])


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"loss is .* at step"):
        train(replace(SPEC, learning_rate=1e30, train_examples=320), tmp_path)


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
