"""Runs: what a spec accepts, that results are whole, cached and repeatable, that one failure leaves the rest alone."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, TrainerCallback

from gemma_encoder import GemmaEncoderForSequenceClassification, inference, load_model, load_tokenizer, predict
from gemma_encoder.cli import main
from gemma_encoder.errors import InputError, VisibilityError
from gemma_encoder.experiments import run as run_module
from gemma_encoder.experiments import store
from gemma_encoder.experiments import sweep as sweep_module
from gemma_encoder.experiments import watch as watch_module
from gemma_encoder.experiments.run import run, train
from gemma_encoder.experiments.spec import PADDINGS, RunSpec
from gemma_encoder.experiments.splits import split
from gemma_encoder.experiments.store import load, run_folder
from gemma_encoder.experiments.sweep import SweepError, sweep
from gemma_encoder.experiments.watch import TrainingError, rows_of
from gemma_encoder.files import whole_folder
from gemma_encoder.tasks import get_task
from gemma_encoder.tokens import token_ids

AVAILABLE = torch.cuda.is_available()
SPEC = RunSpec(task="sst2", train_examples=64, epochs=1, batch_size=16, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("task", "sst3", "unknown task 'sst3' (did you mean 'sst2'?)"),
        ("attention", "both", "unknown attention 'both'"),
        ("pooling", "max", "unknown pooling 'max'"),
        ("evaluate_on", "test", "unknown evaluate_on 'test'"),
        ("epochs", 0, "epochs 0 is too small"),
        ("epochs", 1.5, "epochs 1.5 is of type float; valid: int"),
        ("seed", True, "seed True is of type bool; valid: int"),
        ("padding", 1, "padding 1 is of type int; valid: str"),
        ("padding", "both", "unknown padding 'both'; valid: left, none, right"),
        ("learning_rate", 0.0, "learning_rate 0.0"),
        ("learning_rate", float("nan"), "learning_rate nan"),
        ("ffn_dropout", 1.0, "ffn_dropout 1.0"),
        ("warmup", -0.1, "warmup -0.1"),
        ("weight_decay", float("inf"), "weight_decay inf is not valid; valid: a finite number"),
        ("weight_decay", 10**400, "weight_decay is an integer that is too large; valid: a finite number"),
        ("seed", 2**32, "seed 4294967296 is too large"),
        ("micro_batch", 5, "micro_batch 5 does not divide batch_size 16"),
        ("precision", "float16", "unknown precision 'float16'"),
        ("lora_rank", -1, "lora_rank -1 is too small"),
        ("lora_rank", 4, "lora_rank 4 with lora_alpha 0.0"),
        ("lora_alpha", 8.0, "lora_alpha 8.0 with full fine-tuning"),
    ],
)
def test_a_wrong_setting_is_named_with_the_valid_ones(field, value, says):
    with pytest.raises(InputError) as caught:
        replace(SPEC, **{field: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_and_the_float_are_one_run(tmp_path):
    one, other = replace(SPEC, weight_decay=0), replace(SPEC, weight_decay=0.0)
    assert one == other and run_folder(one, tmp_path) == run_folder(other, tmp_path)


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


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (store.torch, "__version__", "1.0.0"),
        (store, "version", lambda package: "1.0.0"),
        (torch.cuda, "is_available", lambda: not AVAILABLE),
        (store, "get_task", lambda name: replace(get_task(name), metrics=("matthews",))),
    ],
    ids=["torch", "transformers", "device", "the task's definition"],
)
def test_what_computes_and_what_is_asked_make_another_run(where, name, value, tmp_path, monkeypatch):
    before = run_folder(SPEC, tmp_path)
    monkeypatch.setattr(where, name, value)
    assert run_folder(SPEC, tmp_path) != before


def test_a_repaired_version_of_torch_is_the_same_run(tmp_path, monkeypatch):
    before, (major, minor, *_) = run_folder(SPEC, tmp_path), torch.__version__.split(".")
    monkeypatch.setattr(store.torch, "__version__", f"{major}.{minor}.99+cpu")
    assert run_folder(SPEC, tmp_path) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"matth'),
        ("metrics.json", None),
        ("metrics.json", "null"),
        ("metrics.json", '{"score": null}'),
        ("timing.json", "[1, 2]"),
        ("environment.json", '{"threads": 1}'),
        ("curve.jsonl", ""),
        ("curve.jsonl", "7\n"),
        ("spec.json", None),
        ("predictions.jsonl", None),
    ],
)
def test_a_result_that_cannot_be_read_is_made_again(name, content, tmp_path):
    first = run(SPEC, tmp_path)
    broken = first.folder / name
    broken.unlink()
    if content is not None:
        broken.write_text(content)
    assert load(SPEC, tmp_path) is None
    assert run(SPEC, tmp_path).metrics == first.metrics
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


RACE = """
import sys, time
from pathlib import Path
from gemma_encoder.experiments import run as module, watch
from gemma_encoder.experiments.spec import RunSpec

root = Path({root!r})
train = module.train
def slow(spec, working):
    time.sleep(1)  # the others are there by now
    with (root.parent / "trained").open("a") as file:
        file.write("once ")
    return train(spec, working)

module.train, watch.CHECKPOINT_SECONDS = slow, 0
(root.parent / f"here-{{sys.argv[1]}}").touch()
while len(list(root.parent.glob("here-*"))) < 3:
    time.sleep(0.01)
print(module.run({spec!r}, root).score)
"""


def test_processes_that_ask_for_one_run_train_it_once(tmp_path):
    root = tmp_path / "runs"
    command = [sys.executable, "-c", RACE.format(root=str(root), spec=SPEC)]
    running = [subprocess.Popen([*command, str(at)], stdout=subprocess.PIPE, text=True) for at in range(3)]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(said)) == 1 and (tmp_path / "trained").read_text() == "once "
    assert [path.name for path in root.iterdir()] == [run_folder(SPEC, root).name]


def test_a_folder_with_folders_in_it_is_whole_too(tmp_path):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "templates").mkdir()
        (folder / "templates" / "tool.jinja").write_text("{{ messages }}")
    assert (tmp_path / "model" / "templates" / "tool.jinja").is_file()


def test_what_finds_its_place_taken_is_kept_and_named(tmp_path):
    target = tmp_path / "model"

    def late():
        with whole_folder(target) as folder:
            (folder / "weights").write_text("hours of work")
            target.mkdir()
            (target / "note").write_text("of somebody else")

    with pytest.raises(FileExistsError, match=r"cannot be written: .*; what belongs there is in") as caught:
        late()
    assert [path.name for path in target.iterdir()] == ["note"]
    (kept,) = (path for path in tmp_path.iterdir() if path != target)
    assert repr(str(kept)) in str(caught.value) and (kept / "weights").read_text() == "hours of work"


def test_rows_too_short_for_the_pooler_are_named_before_an_update(tmp_path, monkeypatch):
    """The built-in sst2 has rows of four tokens."""
    monkeypatch.setattr(run_module.Trainer, "train", lambda *given, **settings: pytest.fail("trained first"))
    with pytest.raises(InputError, match=r"^train rows \[[0-9, ]+\].* hold fewer than 9 tokens, the shortest "):
        run(replace(SPEC, pooling="last-9"), tmp_path)


def test_a_model_that_cannot_be_kept_costs_no_result(tmp_path, monkeypatch):
    def full(*given):
        raise OSError("disk full")

    monkeypatch.setattr(run_module, "_keep", full)
    with pytest.raises(OSError, match="disk full"):
        run(SPEC, tmp_path / "runs", keep=tmp_path / "model")
    assert load(SPEC, tmp_path / "runs") is not None
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def fail():
        with whole_folder(tmp_path / "run") as folder:
            (folder / "metrics.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_native_encoder_is_trained_like_an_adapted_decoder(tiny_config, tmp_path):
    """The control: its rows begin with [CLS], since its tokenizer has no BOS."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_special_tokens({"cls_token": "<bos>"})
    tokenizer.bos_token = None
    sizes = {"vocab_size": len(tokenizer), "cls_token_id": tokenizer.cls_token_id, "sep_token_id": 2}
    AutoModelForMaskedLM.from_config(tiny_config("modernbert", **sizes)).save_pretrained(tmp_path / "native")
    tokenizer.save_pretrained(tmp_path / "native")
    spec = replace(SPEC, model=str(tmp_path / "native"))
    keep = tmp_path / "kept"
    result = run(spec, tmp_path / "runs", keep)
    assert result.environment["visibility"] == "measured before training: bidirectional"
    assert result.environment["attention_path"] == "sdpa, unpadded"
    model, tokenizer = load_model(keep), load_tokenizer(keep)
    assert model.config.decoder.model_type == "modernbert"
    assert token_ids([["a fine day"]], tokenizer, 16)[0][0][0] == tokenizer.cls_token_id
    with pytest.raises(InputError, match="hold a BOS behind their first token"):
        model(torch.tensor([[tokenizer.cls_token_id, 20, tokenizer.cls_token_id, 21]]))


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from gemma_encoder.experiments import run as module, watch
from gemma_encoder.experiments.spec import RunSpec

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

watch.CHECKPOINT_SECONDS = 0
trainer = module.Trainer
module.Trainer = lambda *args, callbacks, **kwargs: trainer(*args, callbacks=[*callbacks, Kill()], **kwargs)
module.run({spec!r}, Path({root!r}))
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of 8 updates in 2 epochs, and the model it kept."""
    folder = tmp_path_factory.mktemp("whole")
    return run(replace(SPEC, epochs=2), folder / "runs", keep=folder / "model"), folder / "model"


def test_results_and_models_are_for_whom_the_umask_says(uninterrupted):
    os.umask(umask := os.umask(0))
    result, model = uninterrupted
    assert [folder.stat().st_mode & 0o777 for folder in (result.folder, model)] == [0o777 & ~umask] * 2


def test_the_seconds_of_training_are_without_those_of_evaluation(tmp_path, monkeypatch):
    scored, slow = watch_module.EpochCurve.on_epoch_end, 0.5

    def late(self, *given, **more):
        evaluate, self.evaluate = self.evaluate, lambda: time.sleep(slow) or evaluate()
        try:
            return scored(self, *given, **more)
        finally:
            self.evaluate = evaluate

    monkeypatch.setattr(watch_module.EpochCurve, "on_epoch_end", late)
    start = time.perf_counter()
    timing = run(replace(SPEC, epochs=2), tmp_path).timing
    assert timing["evaluation_seconds"] > 2 * slow
    assert timing["train_seconds"] + timing["evaluation_seconds"] < time.perf_counter() - start


@pytest.mark.parametrize("step", [3, 4], ids=["within an epoch", "between two"])
def test_a_long_run_that_is_killed_goes_on_where_it_was_and_ends_the_same(tmp_path, uninterrupted, step):
    (whole, model), root = uninterrupted, tmp_path / "runs"
    code = KILLED.format(step=step, spec=whole.spec, root=str(root))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert load(whole.spec, root) is None
    assert all(path.name.startswith(".") for path in root.iterdir())  # nothing that could be taken for a result
    on = run(whole.spec, root, keep=tmp_path / "model")
    assert on.timing["train_tokens"] == whole.timing["train_tokens"]
    assert all(of.timing["evaluation_seconds"] > 0 for of in (whole, on))
    trained = [of.timing["tokens_per_second"] * of.timing["train_seconds"] for of in (whole, on)]
    assert trained[0] == pytest.approx(whole.timing["train_tokens"])
    assert trained[1] == pytest.approx(trained[0] * (8 - step) / 8, rel=0.2)  # of the updates since the resume
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


def test_choices_are_trained_and_scored(tmp_path):
    result = run(replace(SPEC, task="copa"), tmp_path)
    rows = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 400 and {row["prediction"] for row in rows} <= {0, 1}
    assert result.score == pytest.approx(sum(row["prediction"] == row["label"] for row in rows) / 4)
    assert 0 < result.curve[-1]["validation_loss"] < 2  # of a softmax over two


def test_lists_are_trained_and_every_query_is_ranked(tmp_path):
    result = run(replace(SPEC, task="msmarco", list_size=3), tmp_path)
    rows = [json.loads(line) for line in (result.folder / "predictions.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        best = max(score for score, grade in zip(row["prediction"], row["label"]["grades"], strict=True) if grade)
        found.append(1 / (1 + sum(score > best for score in row["prediction"])))
    assert len(rows) == 200
    assert result.score == pytest.approx(100 * sum(found) / len(found))


def test_holdout_rows_come_from_train_and_are_not_trained_on():
    whole = replace(SPEC, train_examples=0)
    rows, official = split(replace(whole, evaluate_on="holdout")), split(whole)
    texts = {name: set(part["sentence"]) for name, part in rows.items()}
    assert texts["validation"] <= set(official["train"]["sentence"])
    assert not texts["validation"] & texts["train"]
    assert len(rows["train"]) + len(rows["validation"]) == len(official["train"])


def test_a_loss_that_is_not_a_number_stops_the_run_and_the_batch_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"(loss|grad_norm) (nan|inf) at step \d+") as caught:
        train(replace(SPEC, learning_rate=1e30, train_examples=16, epochs=9), tmp_path)
    assert f"training rows of the batch: {list(range(16))}; last good state: none" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_rows_of_the_last_update_are_named():
    rows = Dataset.from_dict({"input_ids": [[1, 2], [3], [4, 5, 6], [7, 8]]})
    ids, mask = torch.tensor([[9, 4, 5, 6], [3, 9, 9, 9]]), torch.tensor([[0, 1, 1, 1], [1, 0, 0, 0]])
    assert rows_of([(ids, mask)], rows) == [1, 2]  # whichever side is padded, whatever pads hold
    lists = Dataset.from_dict({"input_ids": [[[1, 2], [3]], [[1], [2]]]})
    assert rows_of([(torch.tensor([[[1, 2], [3, 0]]]), torch.tensor([[[1, 1], [1, 0]]]))], lists) == [0]


def test_the_last_good_state_outlives_a_loss_that_is_not_a_number(tmp_path, monkeypatch):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.head.out.weight.data.fill_(float("nan"))

    original = run_module.Trainer
    poisoned = lambda *args, callbacks, **given: original(*args, callbacks=[*callbacks, Poison()], **given)  # noqa: E731
    monkeypatch.setattr(run_module, "Trainer", poisoned)
    monkeypatch.setattr(watch_module, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(TrainingError, match=r"loss nan.* at step 3 .*last good state: checkpoint-2"):
        run(SPEC, tmp_path)
    (weights,) = tmp_path.glob(".*/checkpoint-2/model.safetensors")
    assert all(value.isfinite().all() for value in load_file(weights).values())
    assert load(SPEC, tmp_path) is None


def test_a_checkpoint_that_was_being_written_is_not_resumed_from(tmp_path):
    half = tmp_path / f".{run_folder(SPEC, tmp_path).name}.training" / "checkpoint-3"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half of it")
    assert run(SPEC, tmp_path).environment["resumed"] == "False"
    assert not half.exists()


def curve(root, **changes):
    """What a run without dropout records, with these settings changed."""
    return run(replace(SPEC, attention_dropout=0.0, ffn_dropout=0.0, **changes), root).curve


@pytest.mark.parametrize(
    "change", [{"micro_batch": 4}, {"gradient_checkpointing": True}], ids=["small batches", "checkpointing"]
)
def test_saving_memory_changes_no_result(tmp_path, change):
    plain, saving = curve(tmp_path), curve(tmp_path, **change)
    assert saving == [pytest.approx(row, rel=1e-4) for row in plain]


def test_compiled_layers_change_no_result_and_the_model_is_kept_whole(tmp_path, graphs, compile_with):
    compile_with("eager")
    spec = replace(SPEC, attention_dropout=0.0, ffn_dropout=0.0, compiled=True)
    fast = run(spec, tmp_path, keep=tmp_path / "model")
    assert graphs() > 0
    assert fast.curve == [pytest.approx(row, rel=1e-4) for row in curve(tmp_path)]
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "_orig_mod" in name]


def test_bfloat16_rounds_the_passes_and_keeps_the_weights(tmp_path):
    spec = replace(SPEC, precision="bfloat16", attention_dropout=0.0, ffn_dropout=0.0)
    result, exact = run(spec, tmp_path, keep=tmp_path / "model"), curve(tmp_path)[-1]
    rounded = result.curve[-1]
    assert rounded["train_loss"] != exact["train_loss"]
    assert rounded["train_loss"] == pytest.approx(exact["train_loss"], rel=0.05)
    assert {value.dtype for value in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}
    assert 0 <= float(result.environment["batch_spread"]) < 10  # points


def test_the_spread_over_batches_is_that_of_the_scores():
    rows, usual = Dataset.from_dict({"input_ids": [[1, 2]]}), SimpleNamespace(score=81.25)
    found = run_module._batch_spread(
        lambda batch_size: SimpleNamespace(score=80.5), usual, run_module._lengths_of(rows), False
    )
    assert found == "0.75"


def test_the_spread_is_measured_over_other_batches(tmp_path, monkeypatch):
    seen = []
    cut = inference.like_length

    def noted(*given):
        seen.append(cut(*given))
        return seen[-1]

    monkeypatch.setattr(inference, "like_length", noted)
    run(replace(SPEC, precision="bfloat16", train_examples=16), tmp_path)
    usual, other = seen[-2:]
    assert sorted(chain.from_iterable(usual)) == sorted(chain.from_iterable(other))  # the same rows
    assert len(other) > 2 * len(usual)


@pytest.mark.parametrize(("longest", "on_cpu", "rows"), [(30, False, 42), (30, True, 17), (900, True, 1)])
def test_other_batches_have_a_third_of_the_slots(longest, on_cpu, rows):
    assert run_module._smaller_batch(longest, on_cpu) == rows


def test_on_a_machine_with_several_gpus_an_update_has_the_examples_of_the_spec(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert run_module.arguments(SPEC, str(tmp_path)).train_batch_size == SPEC.batch_size


def test_a_run_that_is_launched_twice_at_once_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes; valid: 1"):
        run(SPEC, tmp_path)


def test_lora_trains_small_matrices_and_keeps_a_merged_model(tmp_path):
    result = run(replace(SPEC, lora_rank=4, lora_alpha=8.0), tmp_path / "runs", keep=tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    logits = predict(model, tokenizer, list(split(SPEC)["validation"]["sentence"]))
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(split(SPEC)["validation"]["label"][:]))
    assert result.curve[-1]["validation_loss"] == pytest.approx(losses.item(), rel=1e-4)
    base = GemmaEncoderForSequenceClassification.from_decoder("tiny", num_labels=2).encoder.backbone.state_dict()
    same = {name: torch.equal(value, base[name]) for name, value in model.encoder.backbone.state_dict().items()}
    assert same["embed_tokens.weight"]  # frozen; all linear layers have moved
    assert not any(equal for name, equal in same.items() if "proj" in name)


FULL = """
import resource, sys
from gemma_encoder.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk with room for less than the model
sys.exit(main(["train", "sst2", "--set", "train_examples=16", "epochs=1", "--save", "model"]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sst2", "--set", "train_examples=16", "epochs=1", "--save", "file/model"]) == 2
    said = capsys.readouterr()
    assert said.err == "gemma-encoder: folder 'file' cannot be written: File exists; valid: one that can\n"


def test_a_sweep_keeps_order_runs_equal_specs_once_and_survives_a_failing_run(tmp_path):
    good, other, bad = SPEC, replace(SPEC, seed=1), replace(SPEC, learning_rate=1e30, train_examples=320)
    with pytest.raises(SweepError, match="1 of 3 runs failed") as caught:
        sweep([bad, good, other, good], tmp_path, workers=2)
    assert list(caught.value.failures) == [bad]
    results = sweep([other, good, other], tmp_path, workers=2)
    assert [result.spec for result in results] == [other, good, other]
    assert results[0] == results[2]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def noted(spec, root):
    """Stands for a run; that of seed 1 always ends as the system ends one that takes too much memory."""
    with (root / str(spec.seed)).open("a") as file:
        file.write("x")
    if spec.seed == 1:
        time.sleep(0.2)  # the run beside it has begun
        os.kill(os.getpid(), signal.SIGKILL)
    return spec.seed


def test_a_process_that_is_killed_fails_its_own_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "run", noted)
    specs = [replace(SPEC, seed=seed) for seed in range(4)]
    with pytest.raises(SweepError, match="1 of 4 runs failed") as caught:
        sweep(specs, tmp_path, workers=2)
    assert list(caught.value.failures) == [specs[1]]
    tries = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert tries.keys() == {"0", "1", "2", "3"} and tries["1"] == "xx" and max(map(len, tries.values())) == 2


def test_a_run_whose_process_is_killed_once_is_made(tmp_path):
    def kill():
        while not list(tmp_path.glob(".*.lock")):
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    specs = [replace(SPEC, seed=seed) for seed in range(2)]
    assert [result.spec for result in sweep(specs, tmp_path, workers=1)] == specs
    killer.join()


def interrupted():
    sweep_module._prepare()
    os.kill(os.getpid(), signal.SIGINT)


def test_at_an_interrupt_the_processes_of_a_sweep_are_silent(capfd):
    process = multiprocessing.get_context("spawn").Process(target=interrupted)
    process.start()
    process.join()
    assert (process.exitcode, capfd.readouterr().err) == (130, "")


def test_a_sweep_gives_what_a_single_run_gives(tmp_path):
    alone = run(SPEC, tmp_path / "alone").folder
    pooled = sweep([SPEC], tmp_path / "pool", workers=1)[0].folder
    assert (alone / "metrics.json").read_bytes() == (pooled / "metrics.json").read_bytes()


def test_without_dropout_the_side_of_padding_does_not_change_a_run(tmp_path):
    still = replace(SPEC, attention_dropout=0.0, ffn_dropout=0.0)
    losses = [run(replace(still, padding=name), tmp_path).curve[-1]["train_loss"] for name in PADDINGS]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_a_run_whose_tokens_do_not_see_what_was_asked_for_does_not_begin(tmp_path, monkeypatch, causal_look):
    causal_look()
    with pytest.raises(VisibilityError, match="attention is not 'bidirectional'"):
        run(SPEC, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", SPEC.task, "--set", "train_examples=8"]) == 1
