"""Notebooks as committed: executed in order, free of errors, small, tied to the tiny profile, and comparable."""

import re

import nbformat
import pytest

from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.profiles import load_profile
from gemma_encoder.reports.notebooks import notebook_names, parameters

NAMES = notebook_names()
SECTIONS = ("**Question.**", "## A prediction", "## Check", "**What to expect with real weights.**", "## Exercise")
EXPERIMENT = ("**Protocol card.**", "## Quick checks")  # what a notebook that trains has besides
COMPARED = ("02_pooling", "03_dropout", "04_padding", "05_causal_vs_bidirectional", "07_every_claim", "10_ranking")
MAX_KIB = 400


def load(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert {"01_attention_masks", "05_causal_vs_bidirectional"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_was_executed_in_order_without_error(name):
    cells = code_cells(load(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_holds_no_path_of_a_machine(name):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text()
    assert len(text) < MAX_KIB * 1024
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_something_is_compared_when_it_runs_again(name):
    compared = [cell for cell in code_cells(load(name)) if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    assert any(cell.outputs for cell in compared)


@pytest.mark.parametrize("name", NAMES)
def test_its_defaults_are_the_tiny_profile(name):
    declared, profile = parameters(name), load_profile("tiny")
    for key in declared.keys() & profile.keys():
        assert declared[key].default == profile[key], key
    assert all(parameter.help for parameter in declared.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    notebook = load(name)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.startswith("# ")
    assert not [section for section in SECTIONS if section not in text]
    assert "## What the paper says" in text or "| Paper |" in text
    if "## The experiment" in text:
        assert not [section for section in EXPERIMENT if section not in text]
    assert text.count("<details>") >= 3  # quick checks, answers folded away
    assert any("assert " in cell.source for cell in code_cells(notebook))
    assert notebook.metadata.kernelspec.name == "python3"


def test_every_setting_of_the_profile_is_used():
    found = [parameters(name) for name in NAMES]
    declared = {key for of in found for key in [*of, *(of["more"].default if "more" in of else [])]}
    assert set(load_profile("tiny")) - {"notebooks"} <= declared


@pytest.mark.parametrize("name", COMPARED)
def test_its_table_of_paper_here_and_difference_has_no_blank(name):
    cells = load(name).cells
    (heading,) = [at for at, cell in enumerate(cells) if "### Paper / here / difference" in cell.source]
    shown = [output.data["text/html"] for output in cells[heading + 1].outputs if "text/html" in output.get("data", {})]
    assert len(shown) == 1
    assert all(
        re.search(f'<th scope="col"[^>]*>{column}</th>', shown[0]) for column in ("paper", "here", "here - paper")
    )
    assert "></td>" not in shown[0]
