"""What a task is: a record, not code. The same record serves every source of rows, the metrics and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemma_encoder.errors import InputError, check_choice

KINDS = ("classification", "regression")


@dataclass(frozen=True)
class HubSource:
    """Where the hub keeps a task. `revision` is a commit, so that the data cannot change under a result."""

    repo: str
    config: str
    revision: str


@dataclass(frozen=True)
class Task:
    """One task.

    name: what people type and what the folder is called; suite: the folder above it; title: what tables print.
    kind: "classification" (labels are integers into `labels`) or "regression" (labels are in `label_range`).
    text_columns: one text, or the two texts of a pair, in the order in which the model reads them.
    metrics: names from `metrics.METRICS`; the task's score is their plain mean, as GLUE does it.
    splits: our name of a split -> its name on disk and on the hub. "train" and "validation" are always there.
    may_be_empty: text columns in which the official data itself has empty texts.
    """

    name: str
    suite: str
    title: str
    kind: str
    text_columns: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    label_column: str = "label"
    label_range: tuple[float, float] = (0.0, 1.0)
    hub: HubSource | None = None
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "validation": "validation"}, hash=False
    )
    may_be_empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("kind of task", self.kind, KINDS)
        if len(self.text_columns) not in (1, 2):
            raise InputError(f"task {self.name!r} has {len(self.text_columns)} text columns; valid: 1 or 2")
        if bool(self.labels) != (self.kind == "classification"):
            raise InputError(f"task {self.name!r} ({self.kind}) has labels {self.labels}; only classes have names")

    @property
    def num_labels(self) -> int:
        """Width of the model's output: one logit per class, or one number."""
        return len(self.labels) or 1


_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make `task` known by its name and return it. Another task under a taken name is an InputError."""
    if _TASKS.setdefault(task.name, task) != task:
        raise InputError(f"task name {task.name!r} is taken; taken: {', '.join(task_names())}")
    return task


def get_task(name: str) -> Task:
    """The task called `name`; an unknown name is an InputError that lists the valid ones."""
    return _TASKS[check_choice("task", name, _TASKS)]


def task_names() -> tuple[str, ...]:
    """The names of all tasks, in the order of their registration."""
    return tuple(_TASKS)
