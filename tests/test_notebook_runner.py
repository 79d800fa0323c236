"""Notebooks: names and parameters are checked before a kernel starts, and no failure stays hidden."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from gemma_encoder.errors import InputError
from gemma_encoder.reports import runner
from gemma_encoder.reports.html import check_html
from gemma_encoder.reports.notebooks import check, fits, full_name, notebook_names, parameters, parse
from gemma_encoder.reports.runner import run_all, run_notebook

PARAMETERS = """\
# A comment of its own line is no help text.
n: int = 1  # how many
rate = 2e-5  # learning rate
seeds: list[int] = [0, 1]  # one run each
tasks: list[str] = [
    "sst2",
    "mrpc",
]  # what is learnt
data_dir: str | None = None  # where the data is
pooling = "mean"
quick = True
"""


def write(folder, stem, *sources, declared=PARAMETERS):
    cells = [new_markdown_cell(f"# {stem}"), new_code_cell(declared, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=cells + [new_code_cell(source) for source in sources]), folder / f"{stem}.ipynb")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "01_masks")
    write(tmp_path, "05_causal_vs_bidirectional")
    (tmp_path / "draft.ipynb").write_text("not numbered")
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(runner.papermill, "execute_notebook", refuse)


def test_names(folder):
    assert notebook_names(folder) == ["01_masks", "05_causal_vs_bidirectional"]
    assert full_name("masks", folder) == full_name("01_masks", folder) == "01_masks"


def test_unknown_notebook_names_the_closest_and_the_valid_ones(folder, no_kernel):
    with pytest.raises(InputError, match=r"'01_mask' \(did you mean '01_masks'\?\); valid: 01_masks, 05_causal"):
        run_notebook("01_mask", folder / "out", folder=folder)


def test_parameters_are_read_with_type_default_and_help(folder):
    found = parameters("masks", folder)
    assert {name: (p.type, p.default, p.help) for name, p in found.items()} == {
        "n": ("int", 1, "how many"),
        "rate": ("float", 2e-5, "learning rate"),
        "seeds": ("list[int]", [0, 1], "one run each"),
        "tasks": ("list[str]", ["sst2", "mrpc"], "what is learnt"),
        "data_dir": ("str | None", None, "where the data is"),
        "pooling": ("str", "mean", ""),
        "quick": ("bool", True, ""),
    }


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("n = 1\nhalf = n // 2", "line 2: half is not a plain literal: 'n // 2'"),
        ("import os", "line 1 is not `name = literal`: 'import os'"),
        ("n: int = 'one'", r"line 1: n takes int, received 'one' \(str\)"),
        ("n = None", "needs an annotation"),
        ("n: Path = 'a'", "type 'Path' is not simple"),
        ("n: Literal[1, 2] = 1", "is not simple"),
        ("n = = 1", "invalid syntax"),
        ("hf_token = ''", "hf_token looks like a secret"),
    ],
)
def test_a_parameters_cell_holds_literals_only(tmp_path, declared, message):
    write(tmp_path, "01_x", declared=declared)
    with pytest.raises(InputError, match=f"parameters cell of notebook '01_x': .*{message}"):
        parameters("x", tmp_path)


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("n = 1")]), tmp_path / "01_x.ipynb")
    with pytest.raises(InputError, match="0 cells tagged 'parameters'; valid: exactly 1"):
        parameters("x", tmp_path)


def test_misspelt_parameter_starts_no_kernel(folder, no_kernel):
    with pytest.raises(InputError, match=r"'seed' \(did you mean 'seeds'\?\); valid: data_dir, n, pooling"):
        run_notebook("masks", folder / "out", {"seed": [0]}, folder=folder)
    with pytest.raises(InputError, match="seed"):
        run_all(["masks", "01_masks"], folder / "out", {"masks": {"seed": 1}}, folder=folder)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": "3"}, r"'n' takes int, received '3' \(str\)"),
        ({"n": True}, r"'n' takes int, received True \(bool\)"),
        ({"n": 1.0}, "'n' takes int, received 1.0"),
        ({"rate": "high"}, "'rate' takes float, received 'high'"),
        ({"rate": True}, "'rate' takes float, received True"),
        ({"seeds": [0, "1"]}, r"'seeds' takes list\[int\], received \[0, '1'\]"),
        ({"seeds": 3}, r"'seeds' takes list\[int\], received 3"),
        ({"data_dir": 3}, r"'data_dir' takes str \| None, received 3"),
        ({"pooling": None}, "'pooling' takes str, received None"),
        ({"quick": 1}, "'quick' takes bool, received 1"),
    ],
)
def test_wrong_type_names_value_and_type(folder, no_kernel, given, message):
    with pytest.raises(InputError, match=message):
        run_notebook("masks", folder / "out", given, folder=folder)


@pytest.mark.parametrize(
    "given", [{"n": 3}, {"rate": 1}, {"seeds": []}, {"data_dir": None}, {"data_dir": "a"}, {"pooling": "last"}, {}]
)
def test_fitting_values_pass_unchanged(folder, given):
    assert check("masks", given, folder) == given


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("n=3", {"n": 3}),
        ("rate=1e-3", {"rate": 1e-3}),
        ("rate=2", {"rate": 2}),
        ("seeds=[0, 1, 2]", {"seeds": [0, 1, 2]}),
        ("data_dir=null", {"data_dir": None}),
        ("data_dir=no", {"data_dir": "no"}),
        ("data_dir=007", {"data_dir": "007"}),
        ("data_dir=a=b", {"data_dir": "a=b"}),
        ("quick=false", {"quick": False}),
        ("pooling=a #1 b", {"pooling": "a #1 b"}),
        ("pooling= 'a' ", {"pooling": " 'a' "}),
    ],
)
def test_texts_from_the_command_line_are_yaml(folder, pair, expected):
    assert parse("masks", [pair], folder) == expected


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("n", "given as key=value, received 'n'"),
        ("n=three", r"'n' takes int, received 'three' \(str\)"),
        ("seeds=[0, 1", "'seeds' takes"),
        ("sedes=[0]", "did you mean 'seeds'"),
    ],
)
def test_bad_texts_from_the_command_line(folder, pair, message):
    with pytest.raises(InputError, match=message):
        parse("masks", [pair], folder)


def test_nested_types():
    assert fits({"a": [1.5, 2]}, "dict[str, list[float]]")
    assert not fits({"a": ["x"]}, "dict[str, list[float]]")


SECRET = "hf_" + "a1B2" * 6


@pytest.mark.parametrize("given", [{"token": SECRET}, {"HF_TOKEN": "x"}, {"my_password": "x"}, {"data_dir": SECRET}])
def test_secrets_are_refused_and_not_repeated(folder, no_kernel, given):
    with pytest.raises(InputError, match="is refused") as error:
        run_notebook("masks", folder / "out", given, folder=folder)
    assert SECRET not in str(error.value)


def test_no_worker_and_no_time_are_refused(folder, no_kernel):
    with pytest.raises(InputError, match="at least 1 worker, received 0"):
        run_all(["masks"], folder / "out", workers=0, folder=folder)
    with pytest.raises(InputError, match="positive number of seconds, received 0"):
        run_notebook("masks", folder / "out", timeout=0, folder=folder)


def test_words_that_only_resemble_secrets_pass(tmp_path):
    write(tmp_path, "01_x", declared="max_tokens = 64\ntokenizer = 'a'")
    assert check("x", {"max_tokens": 32, "tokenizer": "b"}, tmp_path) == {"max_tokens": 32, "tokenizer": "b"}


VERDICT = """
from IPython.display import display
outcome = {"claim": "n is three", "verdict": "supported" if n == 3 else "not supported", "evidence": f"n is {n}"}
display({"text/html": "<p>a verdict</p>", "application/vnd.gemma-encoder.verdict+json": outcome}, raw=True)
"""
FAILING = {
    "02_error": ["n", "raise ValueError('no such <thing>\\nmore')", "print('never reached')"],
    "03_killed": ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
    "05_leak": ["print('hf_' + 'a1B2' * 6)"],
    "06_no_alt": ["from IPython.display import display\ndisplay({'image/png': 'iVBORw0KGgo='}, raw=True)"],
    "07_worker": ["import os, signal; os.kill(os.getppid(), signal.SIGKILL)"],
}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """One batch, two at a time: each way to fail among reports that go well."""
    folder = tmp_path_factory.mktemp("notebooks")
    for stem, sources in FAILING.items():
        write(folder, stem, *sources)
    where = "import os, sys; print(sys.executable); print(os.environ['OMP_NUM_THREADS'])"
    write(
        folder,
        "01_good",
        where,
        "from IPython.display import HTML\nHTML('<table class=dataframe><tr><td>kept</td></tr></table>')",
        VERDICT,
    )
    write(folder, "08_formula", "1")
    notebook = nbformat.read(folder / "08_formula.ipynb", as_version=4)
    notebook.cells.append(new_markdown_cell("$\\nosuchcommand$"))
    nbformat.write(notebook, folder / "08_formula.ipynb")
    write(folder, "09_good", VERDICT)
    out = folder / "out"
    out.mkdir()
    (out / "05_leak.html").write_text("an earlier report")
    results = run_all(notebook_names(folder), out, {"good": {}, "01_good": {"n": 3}}, workers=2, folder=folder)
    write(folder, "10_slow", "import time; time.sleep(60)")
    results.append(run_notebook("slow", out, timeout=3, folder=folder))
    return {result.name: result for result in results}


def test_every_report_is_told_in_order(batch):
    assert list(batch) == ["01_good", *FAILING, "08_formula", "09_good", "10_slow"]
    assert {name for name, result in batch.items() if result.status == "ok"} == {"01_good", "09_good"}


def test_a_good_report_has_parameters_verdict_and_outputs(batch):
    result = batch["01_good"]
    assert result.verdicts == [{"claim": "n is three", "verdict": "supported", "evidence": "n is 3"}]
    assert result.parameters == {"n": 3} and result.error == "" and result.seconds > 0
    text = result.html.read_text(encoding="utf-8")
    assert check_html(text) == []
    assert "parameters given" in text and 'class="dataframe"' in text and "FAILED" not in text
    assert batch["09_good"].verdicts[0]["verdict"] == "not supported"


def test_kernels_run_this_interpreter(batch):
    assert sys.executable in batch["01_good"].html.read_text(encoding="utf-8")


def test_notebooks_keep_no_paths_of_the_machine(batch):
    text = batch["01_good"].ipynb.read_text(encoding="utf-8")
    assert "input_path" not in text and "output_path" not in text


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("02_error", "ValueError: no such <thing>"),
        ("03_killed", "the kernel died"),
        ("10_slow", "a cell ran longer than 3 seconds"),
        ("06_no_alt", "the report breaks the rules for reports: image with alt text ''"),
        ("08_formula", "the report could not be built: formula '\\\\nosuchcommand' cannot be converted"),
    ],
)
def test_a_failure_is_told_by_result_and_report(batch, name, error):
    result = batch[name]
    assert result.error.startswith(error) and "\n" not in result.error
    text = result.html.read_text(encoding="utf-8")
    assert text.index("FAILED") < text.index("<h1")
    assert error.replace("<", "&lt;").replace(">", "&gt;").split("'")[0] in text


@pytest.mark.parametrize(
    ("name", "source"), [("02_error", "ValueError"), ("03_killed", "SIGKILL"), ("10_slow", "sleep")]
)
def test_the_report_links_to_the_failing_cell(batch, name, source):
    text = batch[name].html.read_text(encoding="utf-8")
    [target] = re.findall(r'<a href="#(cell-id=[^"]+)">Go to the failing cell', text)
    cell = text[text.index(f'id="{target}"') :]
    assert source in cell[: cell.index("</section>")]
    assert "never reached" not in text.replace(cell, "")


def test_a_leaked_token_is_written_nowhere(batch):
    result = batch["05_leak"]
    assert "hub token" in result.error and result.html is None and result.ipynb is None
    folder = batch["01_good"].html.parent
    assert not (folder / "05_leak.html").exists() and not (folder / "05_leak.ipynb").exists()
    assert not any(SECRET in file.read_text(encoding="utf-8") for file in folder.iterdir())


def test_a_killed_process_takes_no_other_report_with_it(batch):
    assert "ended without a word" in batch["07_worker"].error
    assert batch["09_good"].status == "ok"


def test_nothing_half_written_is_left(batch):
    assert not [file for file in Path(batch["01_good"].html).parent.iterdir() if file.suffix not in (".html", ".ipynb")]


def test_progress_is_one_plain_line_per_report_without_a_terminal(folder, capsys, monkeypatch):
    with runner._progress(2) as bar:
        runner._report_progress(bar, 1, runner.Result("01_masks", "failed", None, None, 61.0, "ValueError: x"))
    assert capsys.readouterr().err == "[1/2] 01_masks: failed, 61 s ValueError: x\n"


def test_run_alone_without_a_pool(tmp_path):
    write(tmp_path, "01_x", "print(n)")
    result = run_notebook("x", tmp_path / "out", {"n": 5}, folder=tmp_path)
    assert (result.status, result.html) == ("ok", tmp_path / "out" / "01_x.html")
    assert '<pre class="output" tabindex="0">5\n</pre>' in result.html.read_text(encoding="utf-8")
