"""A benchmark of several tasks: its rows as a model reads them, and its scores, floors and the literature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from gemma_encoder.loading import load_tokenizer
from gemma_encoder.reports.ablation import display_results, floors_of, origin, spread, spread_caption
from gemma_encoder.reports.claims import MODEL
from gemma_encoder.reports.published import MARKS, Published, published, value
from gemma_encoder.reports.statistics import Summary, seed_means, summary
from gemma_encoder.reports.tables import UNKNOWN, difference, display_table
from gemma_encoder.tasks import GLUE, SUPERGLUE, Task, encode, get_task, load

SHOWN = 160  # characters of a row
LITERATURE = {"rte_superglue": "superglue_rte"}  # what the published numbers call a task
SEVERAL = [task.name for task in (*GLUE, *SUPERGLUE) if len(task.metrics) > 1]  # whose metric is always named
# Where the paper's average stands: that of GLUE is the value that closes its ablations.
AVERAGE = {
    "glue": {"place": "Table 6", "attention": "bidirectional", "pooling": "mean"},
    "superglue": {"place": "main results"},
}


def display_rows(tasks: Sequence[str], data: str, model: str) -> None:
    """Every task: what it asks, one training row exactly as the model reads it with its answer, rows, and metrics."""
    tokenizer, rows = load_tokenizer(model), []
    for name in tasks:
        task, split = get_task(name), load(get_task(name), data)
        ids = encode(split["train"].select([0]), task, tokenizer, 512, truncate=True)[0][0]["input_ids"]
        text = tokenizer.decode(ids[0] if task.has_lists else ids)
        rows.append(
            {
                "task": f"{task.title} ({origin(data)})",
                "it asks": task.asks,
                "a row": text if len(text) <= SHOWN else f"{text[:SHOWN]} …",
                "its answer": _answer(task, split["train"][task.label_column][0]),
                "texts a row": len(ids) if task.has_lists else 1,
                "train": len(split["train"]),
                "validation": ", ".join(str(len(part)) for key, part in split.items() if key != "train"),
                "score": "mean of " * (len(task.metrics) > 1) + " and ".join(task.metrics),
            }
        )
    display_table(pd.DataFrame(rows), "The tasks; a row as the model reads it, behind BOS, which marks its beginning")
    if data == "builtin":
        print(
            "A built-in twin is a task of the form of the one that it is called after, written by this kit about a "
            "small world of its own: its scores say nothing of the original's."
        )


def _answer(task: Task, label: object) -> str:
    """The label of a row, in words."""
    if task.has_lists:
        return f"text {label.index(max(label)) + 1}"
    return task.labels[label] if task.labels else f"{label:g}"


def display_suite(runs: pd.DataFrame, data: str) -> None:
    """Every task and their average: what needs no model, and the scores of `runs`."""
    floor = floors_of(runs, data)
    rows = [
        {"task": get_task(name).title}
        | floor[name]
        | {variant: spread(summary(part["score"])) for variant, part in of_task.groupby("variant", sort=False)}
        for name, of_task in runs.groupby("task", sort=False)
    ]
    if len(rows) > 1:
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("majority", "bag of words")}
        here = {variant: spread(summary(seed_means(part))) for variant, part in runs.groupby("variant", sort=False)}
        rows.append({"task": f"average of these {len(rows)}", **mean, **here})
    display_results(pd.DataFrame(rows), f"{spread_caption(runs)} ({origin(data)})", runs)


def display_paper_here(runs: pd.DataFrame, data: str, benchmark: str) -> None:
    """Paper (2B), here and difference for every task of `runs`, one variant, and for the average."""
    rows = [
        _paper_here(
            get_task(name).title,
            value(place="main results", model=MODEL, task=LITERATURE.get(name, name)),
            summary(of_task["score"]),
        )
        for name, of_task in runs.groupby("task", sort=False)
    ]
    paper = value(model=MODEL, task=benchmark, metric="average", **AVERAGE[benchmark])
    title = f"average (here of {len(rows)} task{'s' * (len(rows) > 1)}, there of the benchmark)"
    rows.append(_paper_here(title, paper, summary(seed_means(runs))))
    caption = f"Paper ({MODEL}), here ({origin(data)}) and difference. {spread_caption(runs)}"
    display_results(pd.DataFrame(rows), caption, runs)


def _paper_here(title: str, paper: Published, here: Summary) -> dict[str, str]:
    """One row of such a table; where the paper's value is not known, neither is the difference."""
    gap = difference(here.mean, paper.value)
    return {"task": title, "paper": str(paper), "here": spread(here), "here - paper": gap}


def display_literature(tasks: Sequence[str], benchmark: str, models: Sequence[str]) -> None:
    """The published values of `models`, one row each, on the tasks and on average, and how they came about."""
    titles = {LITERATURE.get(name, name): get_task(name).title for name in tasks} | {benchmark: "average of all"}
    shown = {model: _literature(model, list(titles)) for model in models}
    rows = [
        {"model": model}
        | {title: _cell(found[found["task"] == name]) for name, title in titles.items()}
        | {"source": _source(found)}
        for model, found in shown.items()
    ]
    every = pd.concat(shown.values())
    display_table(pd.DataFrame(rows), f"Published, in points. How sure: {_legend(every)}", foot=_card(every, titles))


def _literature(model: str, tasks: Sequence[str]) -> pd.DataFrame:
    """The rows of a model that a table of these tasks shows, unknown ones among them, whose notes it shows too."""
    found = published(model=model, unit="points")
    return found[found["task"].isin(tasks) & (found["metric"] != "difference")]


def _cell(rows: pd.DataFrame) -> str:
    """The values of one task: of its metrics one by one, and of sources that disagree both."""
    known = rows[rows["status"] == "known"]
    metrics = [
        " or ".join(_number(row, first=not at) for at, row in enumerate(part.itertuples()))
        for _, part in known.groupby("metric", sort=False)
    ]
    return " / ".join(metrics) or UNKNOWN


def _number(row: tuple, first: bool) -> str:
    """A value with its metric, unless that goes without saying, and with its source where it is a further one."""
    plain = (row.metric in ("accuracy", "average") and row.task not in SEVERAL) or row.task == "cola"
    metric, source = "" if plain else f" {row.metric.replace('_', ' ')}", "" if first else f" ({row.source_id})"
    return f"{row.value:.1f}{metric}{source}"


def _marks(rows: pd.DataFrame) -> list[str]:
    """The marks of the values that `rows` know, the surest first."""
    return [mark for mark in MARKS if mark in set(rows.loc[rows["status"] == "known", "confidence"])]


def _legend(rows: pd.DataFrame) -> str:
    """What the marks of the known values mean."""
    return "; ".join(f"[{mark}] {MARKS[mark]}" for mark in _marks(rows)) or UNKNOWN


def _source(rows: pd.DataFrame) -> str:
    """Where the known values stand, on which split, and how sure they are."""
    known = rows[rows["status"] == "known"]
    said = known.replace({"place": {"not stated": "place not stated"}, "split": {"not stated": "split not stated"}})
    places = dict.fromkeys(f"{row.work}, {row.place}, {row.split}" for row in said.itertuples())
    return f"{'; '.join(places)} {' and '.join(f'[{mark}]' for mark in _marks(rows))}" if len(known) else UNKNOWN


def _card(rows: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """How the values came about: the notes of the rows, each with what it is about, and what no source says."""
    notes = []
    for note, of_note in rows[rows["note"] != ""].groupby("note", sort=False):
        about = [
            f"{model} ({', '.join(dict.fromkeys(titles[task] for task in part['task']))})"
            for model, part in of_note.groupby("model", sort=False)
        ]
        notes.append(f"{note[0].upper()}{note[1:]}: {', '.join(about)}")
    unsaid = f"Seeds, checkpoint rule, warm start, batch: {UNKNOWN} where no note says them"
    return ". ".join([*notes, unsaid]) + "."


def display_work(work: str) -> None:
    """Everything that is known of a work, and what was looked for and not found."""
    found = published(work=work)
    sizes = [_size(row) for row in found.itertuples()]
    table = found.assign(value=sizes)[["model", "attention", "task", "metric", "value", "confidence", "note"]]
    display_table(table.where(table != ""), f"{work}: published values. How sure: {_legend(found)}")


def _size(row: tuple) -> str:
    """A value with its unit, a difference with its sign, or the words that it is not known."""
    if row.status == "unknown":
        return UNKNOWN
    return f"{row.value:{'+g' if row.metric == 'difference' else 'g'}} ({row.unit})"


def display_metrics(runs: pd.DataFrame) -> None:
    """Every metric of every task and validation split by itself."""
    rows = []
    for name, of_task in runs.groupby("task", sort=False):
        for metric in of_task["run"].iloc[0].metrics:
            of = {
                variant: spread(summary([100 * run.metrics[metric] for run in part["run"]]))
                for variant, part in of_task.groupby("variant", sort=False)
            }
            rows.append({"task": get_task(name).title, "metric": metric.replace("_", " "), **of})
    display_results(pd.DataFrame(rows), f"Every metric by itself. {spread_caption(runs)}", runs)


def suite_floor(runs: pd.DataFrame, data: str) -> Mapping[str, float]:
    """The better of both floors of every task of `runs`."""
    return {name: max(floor.values()) for name, floor in floors_of(runs, data).items()}
