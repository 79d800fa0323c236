"""One setting varied, everything else held: what the ablation notebooks share, from their runs to their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product

import pandas as pd

from gemma_encoder.errors import check_choice
from gemma_encoder.experiments.spec import RunSpec, spec_fields
from gemma_encoder.experiments.splits import plain_split
from gemma_encoder.experiments.store import RunResult
from gemma_encoder.experiments.sweep import sweep
from gemma_encoder.reports.statistics import Summary, seed_means, summary
from gemma_encoder.reports.tables import display_table
from gemma_encoder.tasks import bag_of_words, digest, get_task, joined, majority, score

NBSP = "\N{NO-BREAK SPACE}"
Variants = Mapping[str, Mapping[str, object]]


def run_variants(
    variants: Variants,
    tasks: Sequence[str],
    seeds: Sequence[int],
    workers: int = 0,
    per_task: Variants | None = None,
    **settings: object,
) -> pd.DataFrame:
    """Fine-tune every variant on every task with every seed; finished runs are read.

    `variants` maps a name to the fields of RunSpec that make it; `settings` are the fields all share, and `per_task`
    those of single tasks, which go before. One row a run: `task`, `seed`, `variant`, `score` in points, and `run`, the
    RunResult. An unknown setting is an InputError.
    """
    cells, of_task = list(product(tasks, seeds, variants)), per_task or {}
    for given in (settings, *of_task.values(), *variants.values()):
        for key in given:
            check_choice("setting", key, spec_fields())
    specs = [
        RunSpec(task=task, seed=seed, **{**settings, **of_task.get(task, {}), **variants[name]})
        for task, seed, name in cells
    ]
    frame = pd.DataFrame(cells, columns=["task", "seed", "variant"])
    frame["run"] = sweep(specs, workers=workers or None)
    frame["score"] = [run.score for run in frame["run"]]
    return frame


def origin(data: str) -> str:
    """Where the rows come from, in words that fit a table: no path of anybody's machine."""
    return {"builtin": "built-in twin", "hub": "hub"}.get(data, "local folder")


def where(tasks: Sequence[str], data: str) -> str:
    """The tasks of an experiment, in words."""
    if len(tasks) == 1:
        return f"One task ({origin(data)}): {tasks[0]}"
    several = "built-in twins" if data == "builtin" else origin(data)
    return f"Mean of {len(tasks)} tasks ({several}): {', '.join(tasks)}"


def score_label(tasks: Sequence[str], data: str) -> str:
    """What the axis of a figure of scores says."""
    what = f"score on {tasks[0]}" if len(tasks) == 1 else f"mean score over {len(tasks)} tasks"
    return f"{what}, {origin(data)} (points)"


def floors(spec: RunSpec) -> dict[str, float]:
    """What needs no model on the rows that a run of `spec` is scored on, in points; fitted on all training rows."""
    rows = RunSpec(task=spec.task, data=spec.data, evaluate_on=spec.evaluate_on, candidates=spec.candidates)
    return _floors(rows, digest(get_task(spec.task), spec.data))


@cache
def _floors(spec: RunSpec, data_sha256: str) -> dict[str, float]:
    """`floors`; data that changed in place has another digest, and is read anew."""
    task, splits = get_task(spec.task), dict(plain_split(spec))
    train = splits.pop("train")
    return {
        label: score(task, joined({part: floor(task, train, rows) for part, rows in splits.items()}))
        for label, floor in (("majority", majority), ("bag of words", bag_of_words))
    }


def floors_of(runs: pd.DataFrame, data: str) -> dict[str, dict[str, float]]:
    """`floors` of every task of `runs`, over the rows that these were scored on."""
    return {
        name: floors(replace(part["run"].iloc[0].spec, data=data)) for name, part in runs.groupby("task", sort=False)
    }


def spread(of: Summary) -> str:
    """Mean, half of the 95 % interval and standard deviation, for a cell of a table; one value stands alone."""
    return f"{of.mean:.1f}" if of.n == 1 else f"{of.mean:.1f}{NBSP}±{NBSP}{of.high - of.mean:.1f} (sd{NBSP}{of.sd:.1f})"


def display_scores(runs: pd.DataFrame, data: str) -> None:
    """Every task: each variant's mean over seeds, beside what needs no model."""
    rows, floor = [], floors_of(runs, data)
    for name, of_task in runs.groupby("task", sort=False):
        row = {"task": f"{get_task(name).title} ({origin(data)})"} | floor[name]
        for variant, part in of_task.groupby("variant", sort=False):
            row[variant] = spread(summary(part["score"]))
        rows.append(row)
    display_results(pd.DataFrame(rows), spread_caption(runs), runs)
    if below := not_learnt(runs, data):
        print(f"not shown to be above what needs no model, so not learnt with this training: {', '.join(below)}")


def spread_caption(runs: pd.DataFrame) -> str:
    """What the cells made by `spread` say."""
    seeds = runs["seed"].nunique()
    if seeds == 1:
        return "Score in points, 1 seed"
    return f"Score in points: mean ± half of the 95 % t-interval (sd: standard deviation) over {seeds} seeds"


def not_learnt(runs: pd.DataFrame, data: str) -> list[str]:
    """The variants that are not shown to be above what needs no model, on any of the tasks.

    Shown is what has its whole 95 % interval above; one seed has none, and its score has to be.
    """
    floor = floors_of(runs, data)
    below = [
        variant
        for name, of_task in runs.groupby("task", sort=False)
        for variant, part in of_task.groupby("variant", sort=False)
        if not _lowest(summary(part["score"])) > max(floor[name].values())
    ]
    return list(dict.fromkeys(below))


def _lowest(of: Summary) -> float:
    return of.mean if of.n == 1 else of.low


def seed_scores(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """For each variant one score per seed, the mean over tasks: what comparisons are paired on."""
    return {name: seed_means(part) for name, part in runs.groupby("variant", sort=False)}


def seed_frame(scores: Mapping[str, pd.Series]) -> pd.DataFrame:
    """`seed_scores` as rows `variant`, `seed`, `score`, the form that figures take."""
    parts = [series.rename("score").reset_index().assign(variant=name) for name, series in scores.items()]
    return pd.concat(parts, ignore_index=True)


def display_results(frame: pd.DataFrame, caption: str, runs: pd.DataFrame, decimals: int = 1) -> None:
    """A table of what was measured in `runs`, floats to `decimals` places, with the protocol in a line under it."""
    card = protocol(runs)
    named = (
        "split scored",
        "score",
        "seeds",
        "checkpoint",
        "warm start",
        "examples an update",
        "torch",
        "transformers",
    )
    line = ". ".join(f"{name[0].upper()}{name[1:]}: {card[name]}" for name in named)
    display_table(frame, caption, decimals, foot=f"{line}.")


def display_protocol(runs: pd.DataFrame) -> None:
    """The whole protocol, line by line."""
    card = protocol(runs)
    table = pd.DataFrame({"setting": card.keys(), "value": [str(value) for value in card.values()]})
    display_table(table, "Protocol")


def _score_of(name: str) -> str:
    """How a task's score is made of its metrics."""
    metrics = get_task(name).metrics
    return f"{'mean of ' * (len(metrics) > 1)}{', '.join(metrics)}"


def _rows_of(runs: pd.DataFrame) -> str:
    """How many rows, or lists of candidates, the runs of a task were trained on."""
    return _each(run.environment["training_rows"] for run in runs["run"])


def protocol(runs: pd.DataFrame) -> dict[str, object]:
    """What a reader must know to compare or repeat the numbers; a setting that differs between runs has all values."""
    results = list(runs["run"])
    seconds = pd.Series([run.timing["train_seconds"] for run in results])
    spreads = [float(run.environment["batch_spread"]) for run in results if "batch_spread" in run.environment]
    every, warmups = partial(_values, results), _each(f"{run.spec.warmup:.0%}" for run in results)
    return {
        "model": _each(run.spec.model.rstrip("/").rsplit("/", 1)[-1] for run in results),
        "split scored": every("evaluate_on"),
        "score": "; ".join(f"{name}: {_score_of(name)}" for name in runs["task"].unique()),
        "seeds": every("seed"),
        "attention": every("attention"),
        "pooling": every("pooling"),
        "dropout on softmax": every("attention_dropout", "0"),
        "dropout on feed-forward output": every("ffn_dropout", "0"),
        "padding": every("padding"),
        "training examples": "; ".join(f"{name}: {_rows_of(part)}" for name, part in runs.groupby("task", sort=False)),
        **_ranking_settings(results),
        "longest input": f"{every('max_length')} tokens",
        "truncated examples": max(int(run.environment["truncated"]) for run in results),
        "epochs": every("epochs"),
        "examples an update": every("batch_size"),
        **_computing_settings(results),
        "learning rate": f"{every('learning_rate')}, warm-up {warmups}, then linear to 0",
        "weight decay": every("weight_decay"),
        "precision": every("precision"),
        "LoRA rank": _lora(results),
        "checkpoint": "last update; none is selected",
        "warm start": "none",
        "intervals": "Student t over seeds, 95 %; the rows are the same for all, what their choice adds is not in them",
        "attention computed by": _each((run.environment["attention_path"] for run in results), "; "),
        "the same rows in other batches": f"{max(spreads):.2f} points apart at most" if spreads else "equal: float32",
        "torch": _each(run.environment["torch"] for run in results),
        "transformers": _each(run.environment["transformers"] for run in results),
        "seconds a run (median)": round(float(seconds.median()), 1),
    }


def _values(results: Sequence[RunResult], name: str, unset: str = "") -> str:
    """All values of a setting."""
    values = [getattr(run.spec, name) for run in results]
    return _each(unset if unset and not value else f"{value}" for value in values)


def _each(texts: Iterable[str], between: str = ", ") -> str:
    """Every text once, in order."""
    return between.join(dict.fromkeys(texts))


def _lora(results: Sequence[RunResult]) -> str:
    """Rank and alpha of every kind of run."""
    kinds = [(run.spec.lora_rank, run.spec.lora_alpha) for run in results]
    return _each(f"{rank} (alpha {alpha:g})" if rank else "none, all weights are trained" for rank, alpha in kinds)


def _computing_settings(results: Sequence[RunResult]) -> dict[str, str]:
    """Those that save memory or time, where a run uses them."""
    used = {}
    if any(run.spec.micro_batch for run in results):
        used["examples in memory"] = _values(results, "micro_batch", "all")
    switches = {"activations computed twice": "gradient_checkpointing", "layers compiled": "compiled"}
    for what, name in switches.items():
        if any(getattr(run.spec, name) for run in results):
            used[what] = _values(results, name, "no").replace("True", "yes")
    return used


def _ranking_settings(results: Sequence[RunResult]) -> dict[str, str]:
    """Those that only ranking has."""
    ranking = [run for run in results if get_task(run.spec.task).kind == "ranking"]
    if not ranking:
        return {}
    return {
        "passages in a training list, at most": _values(ranking, "list_size"),
        "loss over a list": _values(ranking, "ranking_loss"),
        "passages scored of a query": _values(ranking, "candidates", "all"),
    }
