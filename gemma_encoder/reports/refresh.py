"""Notebooks as they are committed: run with their defaults, outputs kept, everything that changes by itself removed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from gemma_encoder.errors import CommandFailed
from gemma_encoder.files import write_whole
from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.reports.notebooks import full_name, notebook_names
from gemma_encoder.reports.runner import CELL_TIMEOUT, execute

VOLATILE = ("papermill", "execution", "ExecuteTime", "collapsed")


def refresh(names: Sequence[str] = ()) -> list[Path]:
    """Run the notebooks `names` (default: all) and write their outputs back; CommandFailed at the first that fails."""
    done = []
    for name in [full_name(name) for name in names] or notebook_names():
        path = NOTEBOOKS / f"{name}.ipynb"
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch) / path.name
            if failure := execute(path, draft, {}, CELL_TIMEOUT):
                raise CommandFailed(f"{name}: {failure.message}")
            write_whole(path, nbformat.writes(stripped(nbformat.read(draft, as_version=4))) + "\n")
        done.append(path)
    return done


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Without timings, kernel versions and tool notes, so that running it again changes only what it found."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        for key in VOLATILE:
            cell.metadata.pop(key, None)
    return notebook
