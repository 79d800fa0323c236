"""The command `plan`: which runs it counts, beside those that the notebooks make; what a person may change."""

import ast
import json
from dataclasses import replace
from itertools import product

import pytest

from gemma_encoder.cli import main
from gemma_encoder.experiments import plan
from gemma_encoder.experiments.pace import Pace
from gemma_encoder.experiments.plan import ABLATIONS, activation_bytes, estimate, filled_up
from gemma_encoder.experiments.shapes import shape_of
from gemma_encoder.experiments.sizes import Work, work_of
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.profiles import load_profile, ranking_specs
from gemma_encoder.reports.claims import variants
from gemma_encoder.reports.notebooks import full_name, parameters

PACE = Pace(start=3600.0, update=0.0, trained=0.0, evaluated=0.0, length=10, where="a machine of this test")
DEFAULT = RunSpec(task="cola")


@pytest.fixture
def planned(monkeypatch, capsys):
    """Function `(*arguments)`: the lines that `plan` says, a run taking an hour."""
    monkeypatch.setattr(plan, "pace", lambda spec, work: PACE)

    def ask(*arguments):
        assert main(["plan", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return ask


def varied_in(number):
    """The variants of a notebook, from its source and its parameters: fields of RunSpec."""
    known = {name: of.default for name, of in parameters(full_name(number)).items()} | {"product": product}
    notebook = json.loads((NOTEBOOKS / f"{full_name(number)}.ipynb").read_text())
    for cell in notebook["cells"]:
        lines = ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
        for line in lines:
            names = {target.id for target in getattr(line, "targets", []) if isinstance(target, ast.Name)}
            if names & {"poolers", "losses", "variants"}:
                exec(ast.unparse(line), known)
    return list(known["variants"].values())


def distinct(fields):
    """The runs that these fields of RunSpec make."""
    return {replace(DEFAULT, **of) for of in fields}


@pytest.mark.parametrize("number", ["02", "04", "05"])
def test_an_ablation_is_planned_as_its_notebook_varies_it(number):
    assert distinct(ABLATIONS[number]) == distinct(varied_in(number))


def test_dropout_and_the_claims_are_planned_as_their_notebooks_vary_them():
    rates = parameters(full_name("03"))["rates"].default
    assert varied_in("03") == [{"attention_dropout": rate, "ffn_dropout": rate} for rate in rates]
    assert distinct(ABLATIONS["07"]) == distinct(variants().values())


def test_ranking_is_planned_as_its_notebook_varies_it(planned):
    of = {name: found.default for name, found in parameters(full_name("10")).items()}
    fields = {(run.ranking_loss, run.list_size) for run in ranking_specs(of)}
    assert fields == {(run["ranking_loss"], run["list_size"]) for run in varied_in("10")}
    runs = len(fields) * len(of["seeds"])
    said = planned("--notebooks", "00", "10")
    assert said[:2] == [f"runs       {runs}: msmarco", f"           {runs} of ranking (notebook 10): 100% of the FLOPs"]
    assert said[-1] == "left out   2 runs of notebook 00"


def test_lists_of_the_hub_are_planned_by_their_size(planned):
    of = {"model": "google/gemma-3-270m", "data": "hub", "batch_size": 32, "epochs": 1}
    short, long = (work_of(RunSpec(task="msmarco", list_size=size, **of)) for size in (4, 32))
    assert (short.texts, long.texts) == (4, 8.2)  # no query has more
    assert short.evaluated == long.evaluated == pytest.approx(10047 * 8.2 * short.length)


def test_the_ablations_are_counted_once_each(planned):
    said = planned()
    assert said[:2] == [
        "runs       65: qnli",
        "           65 in the ablations (notebooks 02, 03, 04, 05, 07): 100% of the FLOPs",
    ]
    (hours,) = [line.split()[1] for line in said if line.endswith("on a machine of this test, timed now")]
    assert float(hours) == pytest.approx(65, abs=0.1)  # reading the rows takes its own time
    assert planned("--notebooks", "07")[0] == "runs       60: qnli", "without the pooler `first`"


def test_the_ablations_come_on_top_of_the_benchmarks(planned):
    said = planned("--profile", "gemma2-2b")
    profile = load_profile("gemma2-2b")
    tasks, seeds = len({*profile["glue_tasks"], *profile["superglue_tasks"]}), len(profile["seeds"])
    further = 12 * len(profile["tasks"]) * seeds  # without the default, which is one of the benchmarks' runs
    ranked = 2 * len(profile["list_sizes"]) * seeds
    assert said[0].startswith(f"runs       {2 * tasks * seeds + further + ranked}: cola, sst2")
    parts = [line.strip().rpartition(": ") for line in said[1:5]]
    assert [part[0] for part in parts] == [
        f"{tasks * seeds} on every task (notebooks 06, 08, 09)",
        f"{further} in the ablations (notebooks 02, 03, 04, 05, 07)",
        f"{tasks * seeds} from an untrained decoder (notebook 06)",
        f"{ranked} of ranking (notebook 10)",
    ]
    assert sum(int(part[2].partition("%")[0]) for part in parts) == pytest.approx(100, abs=1)


def test_what_a_person_says_goes_before_the_profile(planned):
    choices = ["--set", "seeds=[0, 1]", "rates=[0, 0.1]", "train_examples=40", "per_task={}"]
    said = planned("--notebooks", "03", "08", "--tasks", "rte", "mrpc", *choices, "--set", "glue_tasks=[rte]")
    assert said[0] == "runs       8: rte, mrpc"
    assert [line.split()[0] for line in said[1:3]] == ["2", "6"]
    model = planned("--profile", "small", "--model", "google/gemma-3-270m@v1", "--data-dir", "hub")
    assert "model      google/gemma-3-270m@v1, 268M weights" in model
    licence = "accept it on the hub page of google/gemma-3-270m, then `hf auth login`"
    assert f"licence    Gemma Terms of Use: {licence}" in model


def test_a_data_folder_is_planned_with_its_rows(planned, tmp_path):
    tmp_path = tmp_path / "my #1 data"  # to YAML, a comment
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    rows = [{"sentence": "a fine day", "label": at % 2, "idx": at} for at in range(4)]
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    said = planned("--notebooks", "05", "--tasks", "all", "--data-dir", str(tmp_path))
    assert said[0] == "runs       20: sst2"
    assert planned("--notebooks", "05", "--tasks", "all", "--set", f"data={tmp_path}")[0] == said[0]
    assert planned("--notebooks", "08", "--data-dir", str(tmp_path), "--set", "glue_tasks=[sst2]")[0][-4:] == "sst2"


def test_the_native_encoder_is_a_plan_of_its_own(planned):
    said = planned("--profile", "small", "--notebooks", "08", "--set", "control=jhu-clsp/ettin-encoder-32m@v1")
    at = said.index("beside it, on the tasks of both benchmarks, the native encoder:")
    assert said[at + 1].startswith("runs       40: cola")
    assert said[at + 2] == "           40 as control (notebooks 08): 100% of the FLOPs"
    assert said[at + 3].startswith("model      jhu-clsp/ettin-encoder-32m@v1, ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "tokns=4"], "unknown setting 'tokns'"),
        (["--set", "per_task={colla: {epochs: 2}}"], "unknown task 'colla'"),
        (["--set", "seeds=3"], "seeds 3 is not valid; valid: list of int"),
        (["--set", "epochs"], "a setting is given as key=value, received 'epochs'"),
        (["--set", "epochs=0"], "epochs 0 is too small"),
        (["--set", "seeds=[]"], "notebook 02 has no runs; valid: at least one task and one seed"),
        (["--set", "tasks=[]"], "notebook 02 has no runs"),
        (["--set", "more={epoch: 2}"], "unknown setting 'epoch'"),
        (["--tasks", "colla"], "unknown task 'colla'"),
        (["--set", "rates=[0.1]", "--notebooks", "03"], "rates [0.1] are not valid; valid: 0 and 0.1"),
        (["--set", "pooling=last", "--notebooks", "05"], "pooling cannot be set in notebook 05"),
        (["--set", "workers=-1", "--notebooks", "05"], "workers -1 is too small; valid: at least 0"),
        (["--tasks", "all", "cola"], "--tasks all cola is not valid; valid: names of tasks, or 'all' alone"),
        (["--model", ""], "no model at ''"),
        (["--data-dir", ""], "no data folder ''; valid: 'builtin'"),
        (["--model", "nowhere"], "no model at 'nowhere'"),
        (["--model", "owner/model"], "no shape is known of model 'owner/model'"),
        (["--model", "google/gemma-2-2b@"], "model 'google/gemma-2-2b@' has an empty revision"),
        (["--data-dir", "nowhere"], "no data folder 'nowhere'"),
        (["--notebooks", "01"], "no runs to plan; valid: notebooks with tasks and seeds"),
        (["--notebooks", "99"], "unknown notebook '99'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert says in said.err


def test_a_run_that_pads_trains_on_the_longest_of_its_batch():
    work = Work(rows=4, texts=1, lengths=[3, 7, 2, 4], evaluated=20)
    spec = RunSpec(task="cola", batch_size=2, epochs=1, padding="left")
    assert filled_up(work, replace(spec, padding="none")) == work
    assert filled_up(work, spec).lengths == [7, 7, 4, 4]
    assert filled_up(work, replace(spec, batch_size=4, micro_batch=1)).lengths == work.lengths
    lists = replace(work, rows=2, texts=2)
    assert filled_up(lists, replace(spec, batch_size=1)).lengths == [7, 7, 4, 4]
    assert estimate(spec, shape_of("tiny"), filled_up(work, spec)).tokens == 22
    uncounted = Work(rows=4, texts=1, lengths=[30], evaluated=20)
    assert filled_up(uncounted, spec).lengths == [60]
    assert filled_up(uncounted, replace(spec, max_length=50)).lengths == [50]


def test_padding_makes_the_peak_that_of_full_rows():
    spec, work = RunSpec(task="cola", batch_size=2), Work(rows=4, texts=1, lengths=[30], evaluated=20)
    padded = replace(spec, padding="left")
    full = Work(rows=4, texts=1, lengths=[60, 60], evaluated=20)
    assert activation_bytes(shape_of("tiny"), padded, filled_up(work, padded)) == activation_bytes(
        shape_of("tiny"), spec, full
    )
