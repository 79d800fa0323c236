"""Ablations: which runs a table of variants asks for, how they become scores, and what the paper claims of them."""

import dataclasses
from pathlib import Path

import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.store import RunResult
from gemma_encoder.reports import ablation
from gemma_encoder.reports.claims import CLAIMS, display_claim, judge
from gemma_encoder.reports.statistics import Paired

VARIANTS = {"causal": {"attention": "causal"}, "default": {}}


@pytest.fixture
def asked(monkeypatch):
    """The specs a sweep was asked for; each run "scores" 10 * seed, plus 1 for bidirectional attention."""
    seen = []

    def sweep(specs, workers):
        seen.extend(specs)
        scores = [10.0 * spec.seed + (spec.attention == "bidirectional") for spec in specs]
        timing, environment = {"train_seconds": 2.0}, {"truncated": "0", "attention_path": "formula"}
        environment |= {"torch": "2", "transformers": "5"}
        return [
            RunResult(spec, {}, score, [], timing, environment, Path("nowhere"))
            for spec, score in zip(specs, scores, strict=True)
        ]

    monkeypatch.setattr(ablation, "sweep", sweep)
    return seen


def test_every_variant_runs_on_every_task_with_every_seed(asked):
    runs = ablation.run_variants(VARIANTS, ["rte", "cola"], [3, 4], epochs=2)
    cells = {(spec.task, spec.seed, spec.attention) for spec in asked}
    assert len(asked) == len(cells) == 8
    assert {spec.epochs for spec in asked} == {2}
    assert all(run.spec.attention == ("causal" if name == "causal" else "bidirectional") for name, run in
               zip(runs["variant"], runs["run"], strict=True))  # fmt: skip
    assert (runs["score"] == [run.score for run in runs["run"]]).all()


def test_a_variant_overrides_the_settings_that_all_share(asked):
    ablation.run_variants({"long": {"epochs": 7}, "short": {}}, ["rte"], [0], epochs=2)
    assert [spec.epochs for spec in asked] == [7, 2]


def test_an_unknown_setting_of_a_variant_is_refused(asked):
    with pytest.raises(InputError, match="pooling"):
        ablation.run_variants({"odd": {"pooling": "max"}}, ["rte"], [0])


def test_scores_are_averaged_over_tasks_within_a_seed(asked):
    scores = ablation.seed_scores(ablation.run_variants(VARIANTS, ["rte", "cola"], [1, 2]))
    assert scores["causal"].to_dict() == {1: 10.0, 2: 20.0}
    assert (scores["default"] - scores["causal"]).to_list() == [1.0, 1.0]
    frame = ablation.seed_frame(scores)
    assert set(zip(frame["variant"], frame["seed"], frame["score"], strict=True)) == {
        ("causal", 1, 10.0), ("causal", 2, 20.0), ("default", 1, 11.0), ("default", 2, 21.0),
    }  # fmt: skip


@pytest.mark.parametrize(("seeds", "said"), [([1, 2], True), ([8, 9], False)], ids=["15 points", "85 points"])
def test_a_task_on_which_nothing_was_learnt_is_named(asked, capsys, seeds, said):
    ablation.display_scores(ablation.run_variants(VARIANTS, ["rte"], seeds), "builtin")
    assert ("not learnt with this training: causal, default" in capsys.readouterr().out) == said


def test_tables_name_tasks_floors_and_protocol_and_no_path(asked, capsys):
    runs = ablation.run_variants(VARIANTS, ["rte"], [1, 2], model="/somewhere/of/mine/", learning_rate=0.002)
    ablation.display_scores(runs, "builtin")
    line = capsys.readouterr().out
    assert "Split scored: validation. Score: rte: mean of accuracy. Seeds: 1, 2. Checkpoint: last update" in line
    ablation.display_protocol(runs)
    shown = line + capsys.readouterr().out
    assert "RTE (built-in twin)" in shown and "bag of words" in shown and "15.0" in shown
    assert "0.002" in shown and "mine" in shown and "/somewhere" not in shown
    assert ablation.where(["a", "b"], "/some/folder") == "Mean of 2 tasks (local folder): a, b"
    assert ablation.where(["a"], "hub") == "One task (hub): a"
    assert ablation.score_label(["a"]) == "score on a (points)"
    assert ablation.score_label(["a", "b"]) == "mean score over 2 tasks (points)"


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_about_two_variants_that_differ_and_can_be_run(name):
    claim = CLAIMS[name]
    first, second = (RunSpec(task="rte", **side) for side in (claim.first, claim.second))
    differ = {f.name for f in dataclasses.fields(first) if getattr(first, f.name) != getattr(second, f.name)}
    assert differ in ({"attention"}, {"pooling"}, {"padding"}, {"attention_dropout", "ffn_dropout"})


def test_claims_carry_the_published_differences_and_nothing_where_none_is_known():
    gaps = {name: claim.published_gap for name, claim in CLAIMS.items()}
    known = {name: round(gap, 1) for name, gap in gaps.items() if gap is not None}
    assert known == {
        "mask, mean": 4.9,
        "pooling, last": 0.3,
        "pooling, query-probe": 0.4,
        "pooling, kv-probe": 0.4,
        "dropout, 0": 2.2,
    }


def test_a_claim_of_equality_needs_the_interval_within_the_margin(capsys):
    near = Paired(0.1, -0.4, 0.6, 5, 0.6, ("left padding", "right padding"))
    assert judge(CLAIMS["padding"], near, margin=1.0) == "supported"
    assert judge(CLAIMS["padding"], near, margin=0.5) == "cannot tell at this size"
    assert judge(CLAIMS["mask, mean"], near, margin=1.0) == "cannot tell at this size"
    display_claim(CLAIMS["padding"], near, "Mean of 1 task", margin=1.0)
    assert "supported: Left and right padding" in (shown := capsys.readouterr().out) and "±1 points" in shown
    assert "what needs no model" not in shown
    display_claim(CLAIMS["padding"], near, "Mean of 1 task", learnt=(True, False))
    assert "With this training right padding does not get above what needs no model." in capsys.readouterr().out


def test_the_settings_of_a_task_go_before_those_of_all_and_after_those_of_the_variant(asked):
    per_task = {"rte": {"epochs": 5, "pooling": "last"}}
    ablation.run_variants({"first": {"pooling": "first"}}, ["cola", "rte"], [0], 1, per_task, epochs=2)
    assert [(spec.task, spec.epochs, spec.pooling) for spec in asked] == [("cola", 2, "first"), ("rte", 5, "first")]


def test_an_unknown_setting_of_a_task_is_refused_with_the_nearest_one(asked):
    with pytest.raises(InputError, match=r"unknown setting 'epoch' \(did you mean 'epochs'"):
        ablation.run_variants({"first": {}}, ["cola"], [0], 1, {"cola": {"epoch": 5}})
