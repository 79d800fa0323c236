"""A benchmark of several tasks: its rows as a model reads them, and its scores, floors and the literature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from gemma_encoder.loading import load_tokenizer
from gemma_encoder.reports.ablation import NBSP, display_results, floors, origin
from gemma_encoder.reports.published import MARKS, published
from gemma_encoder.reports.statistics import Summary, seed_means, summary
from gemma_encoder.reports.tables import display_table
from gemma_encoder.tasks import encode, get_task, load

SHOWN = 160  # characters of a row
LITERATURE = {"rte_superglue": "superglue_rte"}  # what the published numbers call a task


def display_rows(tasks: Sequence[str], data: str, model: str) -> None:
    """Every task: one training row exactly as the model reads it, how many rows there are, and its metrics."""
    tokenizer, rows = load_tokenizer(model), []
    for name in tasks:
        task, split = get_task(name), load(get_task(name), data)
        ids = encode(split["train"].select([0]), task, tokenizer, 512, truncate=True)[0][0]["input_ids"]
        text = tokenizer.decode(ids[0] if task.has_lists else ids)
        rows.append(
            {
                "task": f"{task.title} ({origin(data)})",
                "a row": text if len(text) <= SHOWN else f"{text[:SHOWN]} …",
                "texts a row": len(ids) if task.has_lists else 1,
                "train": len(split["train"]),
                "validation": ", ".join(str(len(part)) for key, part in split.items() if key != "train"),
                "score": "mean of " * (len(task.metrics) > 1) + " and ".join(task.metrics),
            }
        )
    display_table(pd.DataFrame(rows), "The tasks; a row as the model reads it, one BOS in front")


def plus_minus(of: Summary) -> str:
    """Mean and half of the 95 % interval, or the mean alone where there is one seed."""
    return f"{of.mean:.1f}" if of.n == 1 else f"{of.mean:.1f}{NBSP}±{NBSP}{of.high - of.mean:.1f}"


def display_suite(runs: pd.DataFrame, data: str) -> None:
    """Every task and their average: what needs no model, and the scores of `runs`."""
    rows = [
        {"task": get_task(name).title}
        | floors(name, data)
        | {variant: plus_minus(summary(part["score"])) for variant, part in of_task.groupby("variant", sort=False)}
        for name, of_task in runs.groupby("task", sort=False)
    ]
    if len(rows) > 1:
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("majority", "bag of words")}
        here = {variant: plus_minus(summary(seed_means(part))) for variant, part in runs.groupby("variant", sort=False)}
        rows.append({"task": f"average of these {len(rows)}", **mean, **here})
    caption = f"Score in points, mean ± half of the 95 % interval over {runs['seed'].nunique()} seeds ({origin(data)})"
    display_results(pd.DataFrame(rows), caption, runs)


def display_literature(tasks: Sequence[str], benchmark: str, models: Sequence[str]) -> None:
    """The published values of `models` on the tasks, and their average over all tasks of the benchmark."""
    literature = {model: _literature(model) for model in models}
    names = {get_task(name).title: LITERATURE.get(name, name) for name in tasks} | {"average of all": benchmark}
    rows = [
        {"task": title} | {model: values.get(name, "not published here") for model, values in literature.items()}
        for title, name in names.items()
    ]
    rows.append({"task": "source"} | {model: values.get("source", "") for model, values in literature.items()})
    marks = "; ".join(f"[{mark}] {words}" for mark, words in MARKS.items())
    display_table(pd.DataFrame(rows), f"Published, in points. How sure: {marks}")


def _literature(model: str) -> dict[str, str]:
    """The published values of every task, with the metric where a task has several, and where they stand."""
    found = published(model=model, unit="points", status="known")
    values: dict[str, str] = {}
    for row in found.itertuples():
        plain = row.metric in ("accuracy", "average") or row.task == "cola"
        text = f"{row.value:.1f}" + ("" if plain else f" {row.metric.replace('_', ' ')}")
        values[row.task] = f"{values[row.task]} / {text}" if row.task in values else text
    if len(found):
        sure = " and ".join(f"[{mark}]" for mark in MARKS if mark in set(found["confidence"]))
        values["source"] = f"{found['work'].iloc[0]}, {found['place'].iloc[0]}, {found['split'].iloc[0]} {sure}"
    return values


def display_metrics(runs: pd.DataFrame) -> None:
    """Every metric of every task and validation split by itself."""
    rows = []
    for name, of_task in runs.groupby("task", sort=False):
        for metric in of_task["run"].iloc[0].metrics:
            of = {
                variant: plus_minus(summary([100 * run.metrics[metric] for run in part["run"]]))
                for variant, part in of_task.groupby("variant", sort=False)
            }
            rows.append({"task": get_task(name).title, "metric": metric.replace("_", " "), **of})
    display_results(pd.DataFrame(rows), "Every metric by itself, times 100", runs)


def suite_floor(tasks: Sequence[str], data: str) -> Mapping[str, float]:
    """The better of both floors, task by task."""
    return {name: max(floors(name, data).values()) for name in tasks}
