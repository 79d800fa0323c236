"""The command line: bad input is one line on stderr and exit code 2, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.cli import main
from gemma_encoder.errors import InputError, VisibilityError
from gemma_encoder.experiments.sweep import SweepError
from gemma_encoder.experiments.watch import TrainingError
from gemma_encoder.paths import DATA
from gemma_encoder.reports import runner
from gemma_encoder.reports.html import Failure


@pytest.fixture
def data(tmp_path):
    """A folder with one small task in it."""
    folder = tmp_path / "data" / "glue" / "sst2"
    folder.mkdir(parents=True)
    rows = [{"sentence": f"a {word} day", "label": label, "idx": i} for i, (word, label) in enumerate(WORDS)]
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


WORDS = [("good", 1), ("bad", 0), ("fine", 1), ("poor", 0)]


def refused(capsys, *argv: str) -> str:
    """The one line that the command said; it exited with 2."""
    assert main([str(part) for part in argv]) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["reprodcue"], "invalid choice: 'reprodcue'"),
        (["train", "sst3"], "unknown task 'sst3' (did you mean 'sst2'?)"),
        (["train", "sst2", "--set", "pooling=max"], "unknown pooling 'max'; valid: first, first-K"),
        (["train", "sst2", "--set", "attention=both"], "unknown attention 'both'; valid: bidirectional"),
        (["train", "sst2", "--set", "epoch=3"], "unknown setting 'epoch' (did you mean 'epochs'?)"),
        (["train", "sst2", "--set", "epochs=many"], "epochs 'many' is of type str; valid: int"),
        (["train", "sst2", "--set", "pooling=2001-99-99"], "unknown pooling '2001-99-99'"),
        (["train", "sst2", "--set", "pooling=!!int x"], "unknown pooling '!!int x'"),
        (["train", "sst2", "--set", "epochs"], "a setting is given as key=value, received 'epochs'"),
        (["train", "sst2", "--set", "pooling=mean #1"], "unknown pooling 'mean #1'"),
        (["train", "sst2", "--model", "nowhere"], "no model at 'nowhere'"),
        (["train", "sst2", "--data-dir", ""], "no data folder ''"),
        (["train", "sst2", "--model", "owner/model"], "--model tiny"),
        (["train", "sst2", "--model", "owner/model@"], "model 'owner/model@' has an empty revision"),
        (["train", "sst2", "--model", "owner/model@v1"], "no network for hub model 'owner/model@v1'"),
        (["train", "sst2", "--data-dir", "nowhere"], "no data folder 'nowhere'"),
        (["train", "sst2", "--data-dir", "hub"], "no network"),
        (["notebook", "99_nothing"], "unknown notebook '99_nothing'"),
        (["notebook", "01_attention_masks", "-p", "tokns=4"], "(did you mean 'tokens'?)"),
        (["notebook", "01_attention_masks", "-p", "tokens=four"], "parameter 'tokens' takes int, received 'four'"),
        (
            ["reproduce", "--profile", "huge"],
            "unknown profile 'huge'; valid: gemma2-2b, gemma2-9b, gemma3-270m, small, tiny",
        ),
        (["plan", "--profile", "huge"], "unknown profile 'huge'; valid: gemma2-2b"),
        (["reproduce", "--set", "tokns=4"], "unknown setting 'tokns'"),
        (["reproduce", "--tasks", "colla"], "unknown task 'colla'"),
        (["reproduce", "--tasks", "all", "--data-dir", "nowhere"], "no data folder 'nowhere'"),
        (
            ["reproduce", "--tasks", "all", "cola"],
            "--tasks all cola is not valid; valid: names of tasks, or 'all' alone",
        ),
        (["choose", "cola", "--rates", "fast"], "invalid float value: 'fast'"),
        (["choose", "cola", "--rates", "-1"], "learning_rate -1.0 is not valid"),
        (["choose", "cola", "--rates", "1e-3", "--set", "learning_rate=1"], "unknown setting 'learning_rate'"),
        (["reproduce", "--workers", "0"], "--workers 0 is not valid"),
        (["reproduce", "--out", "r", "--data-dir", "nowhere"], "no data folder 'nowhere'"),
        (["reproduce", "--out", "r", "--model", "owner/model"], "--model tiny"),
        (["reproduce", "--out", "r", "--profile", "small", "--notebooks", "08"], "--model tiny"),
        (["notebook", "08", "--out", "r", "-p", "glue_tasks=[colla]"], "unknown task 'colla'"),
        (["notebook", "08", "--out", "r", "-p", "seeds=[]"], "seeds [] is empty"),
        (["notebook", "08", "--out", "r", "-p", "epochs=0"], "epochs 0 is too small"),
        (["notebook", "08", "--out", "r", "-p", "more={epoch: 2}"], "unknown setting 'epoch'"),
        (["notebook", "08", "--out", "r", "-p", "per_task={cola: {lora_alpha: 16.0}}"], "with full fine-tuning"),
        (["notebook", "10", "--out", "r", "-p", "list_sizes=[1]"], "list_size 1 is too small"),
        (
            ["notebook", "10", "--out", "r", "-p", "ranking_data=hub", "-p", "ranking_task=trec_dl"],
            "task 'trec_dl' is not on the hub",
        ),
        (["verify", "nowhere"], "no model at 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"sentence": "half a li', "broken JSON"),
        ('{"label": 1, "idx": 4}', "'sentence'"),
        ('{"sentence": "a day", "label": 2, "idx": 4}', "label 2"),
    ],
)
def test_a_bad_data_file_is_named_with_its_line(line, says, data, capsys):
    path = data / "glue" / "sst2" / "train.jsonl"
    path.write_text(path.read_text() + line + "\n")
    report = ["--out", data / "report"]
    for command in (
        ["train", "sst2", "--data-dir", data],
        ["reproduce", "--notebooks", "05", "--data-dir", data, "--set", "tasks=[sst2]", *report],
        ["notebook", "05", "-p", f"data={data}", "-p", "tasks=[sst2]", *report],
    ):
        said = refused(capsys, *command)
        assert says in said
        assert "line 5" in said
    assert not (data / "report").exists()


def test_a_data_folder_without_the_task_lists_those_it_has(data, capsys):
    assert "tasks there: glue/sst2" in refused(capsys, "train", "mrpc", "--data-dir", data)


def test_a_checkpoint_folder_without_weights_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text((DATA / "models" / "tiny" / "config.json").read_text())
    assert "has no weights" in refused(capsys, "train", "sst2", "--model", tmp_path)


def test_verify_tells_a_good_checkpoint_from_a_plain_decoder(tmp_path, capsys):
    GemmaEncoderForSequenceClassification.from_decoder("tiny").save_pretrained(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    assert "bidirectional, as asked" in capsys.readouterr().out
    refused(capsys, "verify", DATA / "models" / "tiny")


def test_no_traceback_and_exit_code_2_from_the_shell():
    command = [Path(sys.executable).parent / "gemma-encoder", "train", "sst2", "--set", "pooling=max"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_learning_rate_is_chosen_on_held_out_training_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gemma_encoder.experiments.choose.sweep", lambda specs, *rest: map(_scored, specs))
    assert main(["choose", "cola", "--rates", "1e-3", "3e-3", "--set", "seed=9"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["learning_rate 0.001 score 1.0", "learning_rate 0.003 score 3.0"]
    assert said[2].startswith("best 0.003")


@pytest.mark.parametrize(("error", "code"), [(InputError("no data"), 2), (OSError("disk full"), 1)])
def test_runs_that_fail_are_one_line(error, code, capsys, monkeypatch):
    def fail(specs, *rest):
        raise SweepError({specs[0]: InputError("no rows"), specs[1]: error}, len(specs))

    monkeypatch.setattr("gemma_encoder.experiments.choose.sweep", fail)
    assert main(["choose", "cola", "--rates", "1e-3", "3e-3"]) == code
    said = capsys.readouterr()
    assert said.err == "gemma-encoder: 2 of 2 runs failed; first: cola, seed 0: InputError('no rows')\n"
    assert said.out == ""


@pytest.mark.parametrize("error", [TrainingError("loss nan"), VisibilityError("blind"), OSError("disk full")])
def test_a_run_that_fails_is_one_line(error, capsys, monkeypatch):
    def fail(*given, **settings):
        raise error

    monkeypatch.setattr("gemma_encoder.experiments.run.run", fail)
    assert main(["train", "cola"]) == 1
    assert capsys.readouterr().err == f"gemma-encoder: {error}\n"


def test_a_notebook_that_fails_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("gemma_encoder.reports.refresh.execute", lambda *given: Failure("OSError: disk full"))
    assert main(["refresh", "01"]) == 1
    assert capsys.readouterr().err == "gemma-encoder: 01_attention_masks: OSError: disk full\n"


def test_an_interrupt_is_one_line(capsys, monkeypatch):
    def interrupt(*given, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma_encoder.experiments.run.run", interrupt)
    assert main(["train", "cola"]) == 130
    assert capsys.readouterr().err == "gemma-encoder: interrupted; finished runs are kept\n"


def test_a_reader_that_is_gone_is_no_failure(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gemma_encoder.cli", "tasks", tmp_path / "tasks"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "tasks" / "glue").is_dir()


@pytest.mark.parametrize("command", [["notebook", "01"], ["reproduce", "--notebooks", "01"]])
def test_reports_that_could_not_be_written_are_not_made(tmp_path, capsys, monkeypatch, command):
    for name in ("run_notebook", "run_all"):
        monkeypatch.setattr(runner, name, lambda *given, **more: pytest.fail("run first"))
    (tmp_path / "file").touch()
    assert main([*command, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_tilde_that_the_shell_leaves_is_the_home_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert main(["tasks", "~/file"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_tasks_are_not_written_to_a_file(tmp_path, capsys):
    (tmp_path / "c.py").touch()
    assert "c.py' cannot be written: File exists" in refused(capsys, "tasks", tmp_path / "c.py")


def test_warnings_are_one_line_while_the_command_runs(capsys, monkeypatch):
    def warn(*given, **settings):
        warnings.warn("3 texts\nwere cut", stacklevel=1)
        raise InputError("no rows")

    usual = warnings.showwarning
    monkeypatch.setattr("gemma_encoder.experiments.run.run", warn)
    main(["train", "cola"])
    assert capsys.readouterr().err == "gemma-encoder: warning: 3 texts were cut\ngemma-encoder: no rows\n"
    assert warnings.showwarning is usual


def _scored(spec):
    assert (spec.evaluate_on, spec.seed, spec.task) == ("holdout", 9, "cola")
    return SimpleNamespace(spec=spec, score=1000 * spec.learning_rate)
