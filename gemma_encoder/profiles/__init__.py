"""Profiles: everything that differs between a laptop and the paper, one commented YAML file each.

`model`, `data` and `seeds` say what is run, on `tasks` in the ablations, on `glue_tasks` and `superglue_tasks` in the
notebooks of these benchmarks, where `control` names a native encoder to hold the model against; `ranking_task`,
`ranking_data` and `list_sizes` belong to the notebook about ranking; `notebooks` says which are run where a person does
not. Every other key is a setting of RunSpec, and `per_task` holds those that differ from task to task. A notebook gets
the keys that it declares as parameters, and the other settings of RunSpec as its `more`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from gemma_encoder.errors import InputError, check_choice
from gemma_encoder.experiments.spec import RunSpec, spec_fields
from gemma_encoder.losses import RANKING_LOSSES
from gemma_encoder.tasks import GLUE, SUPERGLUE, get_task, task_names
from gemma_encoder.yaml_values import Loader

FOLDER = Path(__file__).parent
SETTINGS = sorted(set(spec_fields()) - {"task", "seed"})
TASKS = ("tasks", "glue_tasks", "superglue_tasks")
KINDS = dict.fromkeys(("notebooks", *TASKS), (list, str))  # of the value, and of each item
KINDS |= {"seeds": (list, int), "list_sizes": (list, int), "per_task": (dict, dict)}
NAMED = {  # keys whose values name tasks, and which may be named
    "tasks": task_names(),
    "glue_tasks": [task.name for task in GLUE],
    "superglue_tasks": [task.name for task in SUPERGLUE],
    "per_task": task_names(),
}
RANKING_TASKS = [name for name in task_names() if get_task(name).kind == "ranking"]
FIRST = "cola"  # what the notebook learns that shows how it is done, and has no list of tasks
RANKING_TASK = "msmarco"  # the ranking task where none is named
TEXTS = {
    "control": "a model, or ''",
    "ranking_task": "a ranking task",
    "ranking_data": "'builtin', 'hub', or a folder with lists of candidates",
}


def profile_names(folder: Path = FOLDER) -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_profile(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The settings of profile `name`, or of the file `name` where it ends in ".yaml".

    An unknown name, and a file that is no YAML or has an unknown or double key, a wrong type or settings that
    contradict each other, is an InputError; it names the line of the file.
    """
    valid = profile_names(folder)
    path = Path(name) if name.endswith(".yaml") else folder / f"{check_choice('profile', name, valid)}.yaml"
    if not path.is_file():
        raise InputError(f"no profile file {name!r}; valid: a file, or {', '.join(valid)}")
    try:
        return _checked(*_parsed(path.read_bytes()))
    except _ProfileError as fault:
        raise InputError(f"profile {name!r}, line {fault.line}: {fault}") from None


def specs(profile: dict[str, Any]) -> list[RunSpec]:
    """The fine-tuning of every task with every seed of a loaded profile; variants of an ablation come on top."""
    shared = {key: value for key, value in profile.items() if key in SETTINGS}
    return [
        RunSpec(task=task, seed=seed, **shared | _own(profile, task))
        for task in tasks_of(profile)
        for seed in profile["seeds"]
    ]


def _own(profile: dict[str, Any], task: str) -> dict[str, Any]:
    """The settings that `per_task` has for one task."""
    own = profile.get("per_task", {}).get(task, {})
    check_settings(own)
    return own


def check_settings(names: Iterable[str]) -> None:
    """Every name is that of a setting of RunSpec that a profile may hold."""
    for name in names:
        check_choice("setting", name, SETTINGS)


def control_specs(profile: dict[str, Any]) -> list[RunSpec]:
    """The same for the native encoder that the notebooks of both benchmarks hold the model against, if there is one."""
    benchmarks = [task for name in TASKS[1:] for task in profile.get(name, [])]
    if not (profile.get("control") and benchmarks):
        return []
    return specs({**profile, "model": profile["control"], "tasks": benchmarks})


def ranking_specs(profile: dict[str, Any]) -> list[RunSpec]:
    """The fine-tunings that the notebook about ranking compares: every loss with every list size and seed."""
    task, data = profile.get("ranking_task", RANKING_TASK), profile.get("ranking_data", "builtin")
    alone = {key: value for key, value in profile.items() if key not in TASKS}
    return [
        replace(spec, ranking_loss=loss, list_size=size)
        for size in profile["list_sizes"]
        for loss in RANKING_LOSSES
        for spec in specs({**alone, "tasks": [task], "data": data})
    ]


def tasks_of(profile: dict[str, Any]) -> list[str]:
    """All tasks that a profile names in its lists."""
    return list(dict.fromkeys(task for name in TASKS for task in profile.get(name, [])))


class _ProfileError(Exception):
    """What is wrong with a profile, and in which line."""

    def __init__(self, line: int, error: object):
        super().__init__(str(error))
        self.line = line


@contextmanager
def _at(line: int) -> Iterator[None]:
    """An InputError in this block is one of `line`."""
    try:
        yield
    except InputError as error:
        raise _ProfileError(line, error) from None


def _parsed(content: bytes) -> tuple[yaml.MappingNode, dict[str, Any]]:
    """The YAML of a profile, as nodes, which know their lines, and as values."""
    try:
        text = content.decode()
        tree, profile = yaml.compose(text, Loader=Loader), yaml.load(text, Loader=Loader)
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise _ProfileError(line, f"not UTF-8 at byte {error.start + 1} of the file") from None
    except ReaderError as error:
        line = 1 + text.count("\n", 0, error.position)
        raise _ProfileError(line, f"character U+{error.character:04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise _ProfileError(error.problem_mark.line + 1, said) from None
    if not isinstance(tree, yaml.MappingNode):
        raise _ProfileError(1, "no settings; valid: lines of `key: value`")
    return tree, profile


def _checked(tree: yaml.MappingNode, profile: dict[str, Any]) -> dict[str, Any]:
    lines = _lines(tree, "setting", [*SETTINGS, *KINDS, *TEXTS])
    for key in ("model", "data", "tasks", "seeds"):
        if key not in profile:
            raise _ProfileError(1, f"setting {key!r} is missing")
    per_task = next((value for key, value in tree.value if key.value == "per_task"), None)
    task_lines = _lines(per_task, "task", task_names()) if isinstance(per_task, yaml.MappingNode) else {}
    _check_values(profile, lines)
    of_task = {key.value: _lines(value, "setting", SETTINGS) for key, value in per_task.value} if per_task else {}
    alone = {key: value for key, value in profile.items() if key not in TASKS}
    for task in dict.fromkeys([*tasks_of(profile), *task_lines]):
        at = {**lines, **of_task.get(task, {})}
        try:
            specs(alone | {"tasks": [task]})
        except InputError as error:
            named = [at[word] for word in str(error).split() if word in at]
            raise _ProfileError((named or [task_lines.get(task, lines["tasks"])])[0], error) from None
    return profile


def _check_values(profile: dict[str, Any], lines: dict[str, int]) -> None:
    """Values of the keys that are no settings of RunSpec, which checks its own."""
    for key, value in profile.items():
        with _at(lines[key]):
            check_value(key, value)
            if key in KINDS and not value:
                raise InputError(f"{key} {value!r} is not valid; valid: not empty")


def check_value(key: str, value: Any) -> None:
    """InputError for a value that `key` of a profile cannot have; settings of RunSpec are checked by RunSpec."""
    if key in TEXTS and type(value) is not str:
        raise InputError(f"{key} {value!r} is not valid; valid: {TEXTS[key]}")
    if key in KINDS:
        _check_kind(key, value)
    for name in value if key in NAMED else []:
        check_choice("task", name, NAMED[key])
    if key == "ranking_task":
        check_choice("ranking task", value, RANKING_TASKS)
    if key == "list_sizes":
        for size in value:
            RunSpec(task=RANKING_TASK, list_size=size)


def _check_kind(key: str, value: Any) -> None:
    """Types of a list or dict and of its items, and no item twice."""
    kind, item = KINDS[key]
    items = list(value.values()) if isinstance(value, dict) else value
    if not (isinstance(value, kind) and all(type(one) is item for one in items)):
        raise InputError(f"{key} {value!r} is not valid; valid: {kind.__name__} of {item.__name__}, not empty")
    if kind is list and (twice := [one for one in items if items.count(one) > 1]):
        raise InputError(f"{key} {value!r} holds {twice[0]!r} more than once; valid: each once")


def _lines(tree: yaml.MappingNode, what: str, valid: list[str]) -> dict[str, int]:
    """The line of every key of a mapping; an unknown or double key is a fault."""
    found: dict[str, int] = {}
    for key, _ in tree.value:
        line = key.start_mark.line + 1
        with _at(line):
            check_choice(what, key.value, valid)
        if key.value in found:
            raise _ProfileError(line, f"{what} {key.value!r} is given twice, first in line {found[key.value]}")
        found[key.value] = line
    return found
