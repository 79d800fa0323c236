"""A script: copies of the notebooks whose sweeps are small, so that nbval can run all of them in a minute or two.

    python quick_notebooks.py OUT

The copies keep their stored outputs. What nbval compares (masks, counts, the paper's numbers, proofs) does not depend
on how many seeds there are; the sweeps at their real size are what `make reproduce` runs.
"""

import sys
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from gemma_encoder.paths import NOTEBOOKS
from gemma_encoder.reports.notebooks import notebook_names, parameters

QUICK = {"seeds": [0, 1], "train_examples": 64, "epochs": 1, "per_task": {}}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in notebook_names():
        notebook = load_notebook_node(str(NOTEBOOKS / f"{name}.ipynb"))
        given = {key: value for key, value in QUICK.items() if key in parameters(name)}
        quick = parameterize_notebook(notebook, given) if given else notebook
        nbformat.write(quick, out / f"{name}.ipynb")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
