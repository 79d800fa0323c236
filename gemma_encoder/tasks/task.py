"""What a task is: a record, not code. The same record serves every source of rows, the metrics and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemma_encoder.errors import InputError, check_choice

KINDS = ("classification", "regression", "choice", "ranking")
LISTS = ("choice", "ranking")  # the kinds whose rows hold a list of candidates


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
    kind: "classification" (labels are integers into `labels`), "regression" (labels are in `label_range`), "choice"
        (one of a list of candidates is picked) or "ranking" (a list of candidates is put in order). In the last two the
        last text column holds the candidates of a row, and the label column one grade >= 0 for each.
    text_columns: the one to three texts of a row, in the order in which the model reads them.
    metrics: names from `metrics.METRICS`; the task's score is their plain mean, as GLUE does it.
    also: further metrics, which are reported and stay out of the score.
    splits: our name of a split -> its name on disk and on the hub. "train" and "validation" are always there.
    may_be_empty: text columns in which the official data itself has empty texts.
    folder: where the task lies in a data folder, if not in `suite/name`.
    view: name of the view in `views.VIEWS` that makes these columns out of other ones on disk and on the hub.
    asks: the question that a row puts, in words.
    relevant: the lowest grade that counts as relevant, for metrics and training lists that only tell relevant from not.
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
    also: tuple[str, ...] = ()
    folder: str = ""
    view: str = ""
    asks: str = ""
    relevant: int = 1

    def __post_init__(self) -> None:
        check_choice("kind of task", self.kind, KINDS)
        if len(self.text_columns) not in (1, 2, 3):
            raise InputError(f"task {self.name!r} has {len(self.text_columns)} text columns; valid: 1 to 3")
        if bool(self.labels) != (self.kind == "classification"):
            raise InputError(f"task {self.name!r} ({self.kind}) has labels {self.labels}; only classes have names")

    @property
    def path(self) -> str:
        """The folder of the task below a data folder."""
        return self.folder or f"{self.suite}/{self.name}"

    @property
    def has_lists(self) -> bool:
        """Whether a row holds a list of candidates, each of which gets a score."""
        return self.kind in LISTS

    @property
    def num_labels(self) -> int:
        """Width of the model's output: one logit per class, or one number (for each candidate)."""
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
