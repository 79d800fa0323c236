"""Diagnostic sets: hand-made rows that nothing is trained on; the model of another task answers them.

AX of GLUE takes MNLI's model, AX-b and AX-g of SuperGLUE that of SuperGLUE's RTE. None of them is in an average.
AX's labels are not public: the hub has -1 for all of them, and its score comes from the server.
Sources: GLUE (Wang et al., 2018), section 4; SuperGLUE (Wang et al., 2019), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma_encoder.errors import check_choice
from gemma_encoder.tasks.glue import MNLI
from gemma_encoder.tasks.glue import REVISION as GLUE_REVISION
from gemma_encoder.tasks.superglue import REVISION as SUPERGLUE_REVISION
from gemma_encoder.tasks.superglue import RTE
from gemma_encoder.tasks.task import HubSource, Task


@dataclass(frozen=True)
class Diagnostic:
    """rows: what there is to answer, in the columns and with the labels of `head`, the task whose model answers."""

    rows: Task
    head: Task


def _diagnostic(name: str, title: str, head: Task, hub: HubSource, **rest) -> Diagnostic:
    settings = {"metrics": ("matthews",), "labels": head.labels, "splits": {"test": "test"}, "hub": hub, **rest}
    return Diagnostic(Task(name, head.suite, title, "classification", head.text_columns, **settings), head)


AX = _diagnostic("ax", "AX", MNLI, HubSource("nyu-mll/glue", "ax", GLUE_REVISION))

AX_B = _diagnostic("axb", "AX-b", RTE, HubSource("aps/super_glue", "axb", SUPERGLUE_REVISION), view="axb")

AX_G = _diagnostic("axg", "AX-g", RTE, HubSource("aps/super_glue", "axg", SUPERGLUE_REVISION), metrics=("accuracy",))

DIAGNOSTICS = {each.rows.name: each for each in (AX, AX_B, AX_G)}


def get_diagnostic(name: str) -> Diagnostic:
    """The diagnostic set called `name`; an unknown name is an InputError that lists the valid ones."""
    return DIAGNOSTICS[check_choice("diagnostic set", name, DIAGNOSTICS)]
