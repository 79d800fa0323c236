"""Rows of a task from one of three places behind one door: the built-in tasks, a folder, or the hub.

A folder holds `<suite>/<task>/<split>.jsonl[.gz]` (`Task.path` says where a task lies elsewhere), one JSON object a
line. The built-in tasks are such a folder.
Whatever the place, a row that the task's definition does not allow stops the loading and is named by its line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from reprlib import repr as short
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from gemma_encoder.errors import InputError
from gemma_encoder.hub import reachable
from gemma_encoder.paths import DATA
from gemma_encoder.tasks.task import HubSource, Task, get_task, task_names
from gemma_encoder.tasks.views import VIEWS, text_problem, whole

BUILTIN = DATA / "tasks"
LAYOUT = "<suite>/<task>/<split>.jsonl[.gz]"
UNKNOWN = (None, -1, [])  # what stands for a label that is not public


def load(task: Task, data: str | Path = "builtin") -> DatasetDict:
    """The splits of `task`, checked row by row, held in memory.

    data: "builtin", "hub", or a folder of the layout above.
    Returns the splits of `task.splits`, with the text columns, the label column, `idx` where every row has one, and
    what the view of the task keeps. Where rows hold lists of candidates, so do the last text column and the labels.
    Raises InputError for a missing folder, split or column, a broken line, a text or label that is not valid, an
    empty split, and a hub that cannot be reached.
    """
    return DatasetDict({split: _checked(task, *table) for split, table in _tables(task, data).items()})


def load_test(task: Task, data: str | Path = "builtin", split: str = "test") -> Dataset:
    """One test split, checked as by `load`; without a label column where no row has a label, None, -1 or no answers."""
    ((place, numbered),) = _tables(replace(task, splits={split: split}), data).values()
    rows, gold = list(numbered), "answers" if task.view == "record" else task.label_column
    if task.kind == "ranking" or any(not isinstance(row, dict) or row.get(gold) not in UNKNOWN for _, row in rows):
        return _checked(task, place, rows)
    filled = [(line, row | {gold: _entities(row)[:1] if gold == "answers" else 0}) for line, row in rows]
    return _checked(task, place, filled).remove_columns(task.label_column)


def _entities(row: dict[str, Any]) -> list[Any]:
    """Those of an unlabelled row of ReCoRD; what is no list is for the view to refuse."""
    return found if isinstance(found := row.get("entities"), list) else []


def tasks_in(data: str | Path = "builtin") -> list[str]:
    """The names of the tasks that `data` holds with all their splits; of the hub, those that have a place there."""
    tasks = [get_task(name) for name in task_names()]
    if data == "hub":
        return [task.name for task in tasks if task.hub]
    root, found = _root(data), []
    for task in tasks:
        files = [root / task.path / f"{split}.jsonl" for split in task.splits.values()]
        if all(file.is_file() or file.with_name(f"{file.name}.gz").is_file() for file in files):
            found.append(task.name)
    return found


def _tables(task: Task, data: str | Path) -> dict[str, tuple[str, Iterable[tuple[int, object]]]]:
    """Of each split, the name of its place and its numbered rows."""
    if data == "hub":
        hub = _hub(task)
        return {
            split: (f"{hub.repo} ({hub.config}, {split})", enumerate(rows, 1))
            for split, rows in _hub_rows(task, hub).items()
        }
    return {split: (str(path), _lines(path)) for split, path in _files(task, data).items()}


def digest(task: Task, data: str | Path = "builtin") -> str:
    """SHA-256, in hexadecimal, of the data that `load(task, data)` reads.

    For a folder, of the digests of its uncompressed splits; for the hub, of its pinned revision.
    """
    if data == "hub":
        hub = _hub(task)
        return sha256(f"{hub.repo}/{hub.config}@{hub.revision}".encode()).hexdigest()
    digests = [sha256(_read(path)).digest() for path in _files(task, data).values()]
    return sha256(b"".join(digests)).hexdigest()


def _root(data: str | Path) -> Path:
    root = BUILTIN if data == "builtin" else Path(data).expanduser()
    if not str(data) or not root.is_dir():  # the path of no name at all is the current folder
        raise InputError(f"no data folder {str(data and root)!r}; valid: 'builtin', 'hub', or a folder with {LAYOUT}")
    return root


def _files(task: Task, data: str | Path) -> dict[str, Path]:
    """The file of each split."""
    root = _root(data)
    folder = root / task.path
    if not folder.is_dir():
        paths = (*root.glob("*/*.jsonl*"), *root.glob("*/*/*.jsonl*"))
        found = sorted({path.parent.relative_to(root).as_posix() for path in paths})
        raise InputError(f"no task {task.path} in {root}; tasks there: {', '.join(found) or 'none'}")
    return {split: _file(folder, name) for split, name in task.splits.items()}


def _file(folder: Path, split: str) -> Path:
    paths = [path for path in (folder / f"{split}.jsonl", folder / f"{split}.jsonl.gz") if path.is_file()]
    if len(paths) == 2:
        raise InputError(f"{folder} has both {paths[0].name} and {paths[1].name}; keep one")
    if not paths:
        found = sorted(path.name.partition(".")[0] for path in folder.glob("*.jsonl*"))
        raise InputError(f"{folder} has no {split}.jsonl[.gz]; splits there: {', '.join(found) or 'none'}")
    return paths[0]


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    """Line number and parsed JSON of every line that is not blank."""
    for number, line in enumerate(_read(path).splitlines(), 1):
        if line.strip():
            yield number, _parse(line, f"{path}, line {number}")


def _parse(line: bytes, place: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: broken JSON at character {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 at byte {error.start + 1}") from error
    except RecursionError:
        raise InputError(f"{place}: lists or objects too deep in each other; valid: a JSON object") from None
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except ValueError as error:  # Python's limit of digits, whose message goes on with advice to programmers
        raise InputError(f"{place}: {str(error).partition(';')[0]}; valid: integers of 64 bits") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which each key is given once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"column {twice!r} is given more than once; valid: once")
    return found


def _hub(task: Task) -> HubSource:
    if task.hub is None:
        raise InputError(f"task {task.name!r} is not on the hub; valid: 'builtin', or a folder with {LAYOUT}")
    return task.hub


def _hub_rows(task: Task, hub: HubSource) -> dict[str, list[dict]]:
    """The rows of each split at the pinned revision, from the network or from an earlier download."""
    if not reachable():
        datasets.config.HF_HUB_OFFLINE = True  # look for an earlier download at once, without 20 s of retries
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(hub.repo, hub.config, revision=hub.revision)
        if builder.hash != hub.revision:  # without network, `datasets` falls back on any revision it finds on disk
            raise FileNotFoundError(f"revision {hub.revision} wanted, {builder.hash} found")
        builder.download_and_prepare()
        return {split: builder.as_dataset(split=name).to_list() for split, name in task.splits.items()}
    except Exception as error:  # every layer below raises its own kinds
        said = (str(error) or type(error).__name__).splitlines()[0]
        said = said if reachable() else f"no network, and no earlier download to use ({said})"
        instead = "valid without the hub: --data-dir FOLDER, or the built-in tasks (--profile tiny)"
        raise InputError(f"cannot load {hub.repo} ({hub.config}) from the hub: {said}; {instead}") from error


def _checked(task: Task, place: str, numbered: Iterable[tuple[int, object]]) -> Dataset:
    """The rows as a Dataset; a row that is not valid is an InputError naming `place` and its line."""
    rows, known = [], {}
    for number, row in numbered:
        try:
            rows.append(_valid(task, row))
            _check_beside(task, rows[-1], known, number)
        except InputError as error:
            raise InputError(f"{place}, line {number}: {error}") from error
    if not rows:
        raise InputError(f"{place} has no rows; valid: at least one in every split")
    features = _features(task)
    if "idx" not in features and rows[0].get("idx") is not None:
        features["idx"] = Value("int64")
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, Features(features))


def _check_beside(task: Task, row: dict[str, Any], known: dict[Any, tuple[int, Any]], line: int) -> None:
    """The row does not contradict those before it, of which `known` keeps what their `idx` named, and in which line."""
    idx = row.get("idx")
    if task.view == "multirc":
        key, texts = (idx["paragraph"], idx["question"]), (row["paragraph"], row["question"])
        first, before = known.setdefault(key, (line, texts))
        if texts != before:
            raise InputError(f"idx {short(idx)} names another paragraph or question in line {first}; valid: the same")
    if isinstance(idx, dict):
        return
    given, _ = known.setdefault("given", (idx is not None, None))
    if given != (idx is not None):
        raise InputError("'idx' is there in some rows only; valid: in every row, or in none")
    if idx is not None and known.setdefault(idx, (line, None))[0] != line:
        raise InputError(f"idx {idx} is that of line {known[idx][0]} too; valid: each once")


def _features(task: Task) -> dict[str, Any]:
    """The columns of every row."""
    features: dict[str, Any] = dict.fromkeys(task.text_columns, Value("string"))
    features[task.label_column] = ClassLabel(names=list(task.labels)) if task.labels else Value("float64")
    if task.has_lists:
        features |= {task.text_columns[-1]: List(Value("string")), task.label_column: List(Value("int64"))}
    return features | (dict(VIEWS[task.view].keeps) if task.view else {})


def _valid(task: Task, row: object) -> dict[str, Any]:
    """The row in the columns of the task; what is wrong with it is an InputError."""
    if not isinstance(row, dict):
        raise InputError(f"holds {short(row)}; valid: a JSON object")
    view = VIEWS[task.view] if task.view else None
    for column in view.columns if view else (*task.text_columns, task.label_column):
        if column not in row:
            raise InputError(f"no column {column!r}; columns there: {', '.join(sorted(row)) or 'none'}")
    if view:
        row = {"idx": row.get("idx")} | view.make(row)
    kept = view and "idx" in view.keeps  # checked by the view
    if not (kept or (idx := row.get("idx")) is None or whole(idx)):
        raise InputError(f"idx {short(idx)}; valid: an integer of 64 bits")
    if task.has_lists:
        _check_list(task, row)
    for column in task.text_columns[: -1 if task.has_lists else None]:
        if problem := text_problem(row[column], column in task.may_be_empty):
            raise InputError(f"column {column!r} {problem}")
    if not task.has_lists and (problem := _label_problem(task, row[task.label_column])):
        raise InputError(problem)
    return row


def _check_list(task: Task, row: dict[str, Any]) -> None:
    """Candidates are texts, there is at least one, and each has a grade."""
    column, label = task.text_columns[-1], task.label_column
    if not row[column]:
        raise InputError(f"column {column!r} holds no candidates; valid: a list of at least one text")
    for at, (text, grade) in enumerate(zip(row[column], row[label], strict=True)):
        if problem := text_problem(text, may_be_empty=False):
            raise InputError(f"{column} {at} (counted from 0) {problem}")
        if not whole(grade, 0):
            raise InputError(f"{label} {short(grade)} of {column} {at} (counted from 0); valid: an integer >= 0")


def _label_problem(task: Task, label: object) -> str | None:
    # `type(...) is` and not isinstance: True is an int to Python, and no label to us.
    if task.labels:
        if type(label) is int and 0 <= label < len(task.labels):
            return None
        valid = ", ".join(f"{number} ({name})" for number, name in enumerate(task.labels))
    else:
        low, high = task.label_range
        if type(label) in (int, float) and low <= label <= high:
            return None
        valid = f"a number from {low} to {high}"
    return f"{task.label_column} {short(label)}; valid: {valid}"
