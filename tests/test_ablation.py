"""Ablations: which runs a table of variants asks for, how they become scores, and what the paper claims of them."""

import dataclasses
import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_encoder.errors import InputError
from gemma_encoder.experiments.spec import RunSpec
from gemma_encoder.experiments.splits import split
from gemma_encoder.experiments.store import RunResult
from gemma_encoder.reports import ablation
from gemma_encoder.reports.claims import (
    CLAIMS,
    UNTESTED,
    beside,
    compare,
    display_claim,
    display_untested,
    judge,
    variant_name,
    variants,
)
from gemma_encoder.reports.statistics import VERDICTS, Paired, at_once, paired, summary
from gemma_encoder.reports.tables import UNKNOWN, difference, signed
from gemma_encoder.tasks import bag_of_words, get_task, load, majority, score

VARIANTS = {"causal": {"attention": "causal"}, "default": {}}


@pytest.fixture
def asked(monkeypatch):
    """The specs a sweep was asked for; each run "scores" 10 * seed, plus 1 for bidirectional attention."""
    seen = []

    def sweep(specs, workers):
        seen.extend(specs)
        scores = [10.0 * spec.seed + (spec.attention == "bidirectional") for spec in specs]
        timing, environment = {"train_seconds": 2.0}, {"truncated": "0", "training_rows": "7"}
        environment |= {"torch": "2", "transformers": "5"}
        return [
            RunResult(spec, {}, score, [], timing, environment | {"attention_path": spec.padding}, Path("nowhere"))
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


@pytest.mark.parametrize(
    ("seeds", "said"),
    [([1, 2], True), ([8, 9], True), ([7, 8, 9], False), ([9], False)],
    ids=["15 points", "85, the interval from 22", "80, the interval from 55", "one seed of 90"],
)
def test_a_task_on_which_nothing_was_learnt_is_named(asked, capsys, seeds, said):
    ablation.display_scores(ablation.run_variants(VARIANTS, ["rte"], seeds), "builtin")
    assert ("not learnt with this training: causal, default" in capsys.readouterr().out) == said


def test_tables_name_tasks_floors_and_protocol_and_no_path(asked, capsys):
    runs = ablation.run_variants(VARIANTS, ["rte"], [1, 2], model="/somewhere/of/mine/", learning_rate=0.002)
    ablation.display_scores(runs, "builtin")
    line = capsys.readouterr().out
    assert "Split scored: validation. Score: rte: accuracy. Seeds: 1, 2. Checkpoint: last update" in line
    ablation.display_protocol(runs)
    shown = line + capsys.readouterr().out
    assert "RTE (built-in twin)" in shown and "bag of words" in shown
    assert "(sd: standard deviation) over 2 seeds" in shown
    assert "causal, bidirectional" in shown  # the attention of both variants
    assert "0.002" in shown and "mine" in shown and "/somewhere" not in shown
    assert ablation.where(["a", "b"], "/some/folder") == "Mean of 2 tasks (local folder): a, b"
    assert ablation.where(["a"], "hub") == "One task (hub): a"
    assert ablation.score_label(["a"], "builtin") == "score on a, built-in twin (points)"
    assert ablation.score_label(["a", "b"], "hub") == "mean score over 2 tasks, hub (points)"


def test_the_card_says_what_was_used_in_every_run(asked):
    runs = ablation.run_variants({"none": {}, "left": {"padding": "left"}}, ["rte", "mrpc"], [1], train_examples=1200)
    runs["run"].iloc[0].environment["training_rows"] = "5"
    card = ablation.protocol(runs)
    assert (card["training examples"], card["attention computed by"]) == ("rte: 5, 7; mrpc: 7", "none; left")
    assert card["score"] == "rte: accuracy; mrpc: mean of accuracy, f1"


def test_the_card_has_all_values_where_runs_differ(asked):
    changes = {"evaluate_on": "holdout", "warmup": 0.2, "lora_rank": 4, "lora_alpha": 8.0}
    runs = ablation.run_variants({"one": {}, "other": changes | {"micro_batch": 8}}, ["rte"], [1])
    runs["run"].iloc[1].environment.update(torch="3", transformers="6")
    card = ablation.protocol(runs)
    assert card["split scored"] == "validation, holdout"
    assert card["learning rate"] == "0.0005, warm-up 10%, 20%, then linear to 0"
    assert (card["torch"], card["transformers"]) == ("2, 3", "5, 6")
    assert card["LoRA rank"] == "none, all weights are trained, 4 (alpha 8)"
    assert card["examples in memory"] == "all, 8"


def test_the_card_has_settings_only_where_they_matter(asked):
    matter = ["passages in a training list, at most", "loss over a list", "passages scored of a query"]
    saving = ["examples in memory", "activations computed twice", "layers compiled"]
    plain = ablation.protocol(ablation.run_variants({"one": {}}, ["rte"], [1]))
    assert plain.keys().isdisjoint([*matter, *saving])
    variants = {"one": {}, "other": {"list_size": 4, "candidates": 100, "ranking_loss": "pointwise_logistic"}}
    runs = ablation.run_variants(variants, ["msmarco"], [1], gradient_checkpointing=True, compiled=True)
    card = ablation.protocol(runs)
    assert [card[name] for name in matter] == ["8, 4", "listwise_softmax, pointwise_logistic", "all, 100"]
    assert card["activations computed twice"] == card["layers compiled"] == "yes" and "examples in memory" not in card


def test_the_card_has_the_largest_spread_over_batches(asked):
    runs = ablation.run_variants(VARIANTS, ["rte"], [1])
    assert ablation.protocol(runs)["the same rows in other batches"] == "equal: float32"
    for run, spread in zip(runs["run"], ("9.50", "10.20"), strict=True):
        run.environment["batch_spread"] = spread
    assert ablation.protocol(runs)["the same rows in other batches"] == "10.20 points apart at most"


def test_a_cell_has_mean_interval_and_standard_deviation():
    assert ablation.spread(summary([80, 82, 84])).replace(ablation.NBSP, " ") == "82.0 ± 5.0 (sd 2.0)"
    assert ablation.spread(summary([80])) == "80.0"


def test_a_single_seed_has_no_interval_in_the_caption(asked):
    assert ablation.spread_caption(ablation.run_variants(VARIANTS, ["rte"], [1])) == "Score in points, 1 seed"


def test_the_floors_are_the_mean_over_both_validation_splits_of_mnli(monkeypatch):
    shares = {"m": 0.3, "mm": 0.4}
    rows = {"train": "t", "validation": "m", "validation_mismatched": "mm"}
    monkeypatch.setattr(ablation, "plain_split", lambda spec: rows)
    monkeypatch.setattr(ablation, "majority", lambda task, train, part: {"accuracy": shares[part]})
    monkeypatch.setattr(ablation, "bag_of_words", lambda task, train, part: {"accuracy": 2 * shares[part]})
    found = ablation._floors.__wrapped__(RunSpec(task="mnli"), "digest")
    assert found == pytest.approx({"majority": 35.0, "bag of words": 70.0})


def test_the_floors_of_a_task_with_one_validation_split_are_those_of_that_split():
    task, rows = get_task("rte"), load(get_task("rte"))
    expected = {"majority": majority, "bag of words": bag_of_words}
    found = ablation.floors(RunSpec(task="rte", train_examples=16))
    assert found == {
        label: pytest.approx(100 * floor(task, rows["train"], rows["validation"])["accuracy"])
        for label, floor in expected.items()
    }


def test_the_floors_of_held_out_rows_are_those_of_these_rows():
    spec = RunSpec(task="rte", evaluate_on="holdout")
    task, rows = get_task("rte"), split(spec)
    expected = score(task, bag_of_words(task, rows["train"], rows["validation"]))
    found = ablation.floors(spec)
    assert found["bag of words"] == pytest.approx(expected) != ablation.floors(RunSpec(task="rte"))["bag of words"]


@pytest.fixture
def ranked(tmp_path):
    """A folder with MS MARCO in which BM25 put the one relevant passage of each query third."""

    def write(relevant=3):
        passages = [
            {"passage_id": f"p{at}", "text": f"text {at}", "label": int(at == relevant), "bm25_rank": at}
            for at in (1, 2, 3, 4)
        ]
        (tmp_path / "msmarco").mkdir(exist_ok=True)
        for name in ("train", "validation"):
            row = {"query_id": name, "query": "which text", "passages": passages}
            (tmp_path / "msmarco" / f"{name}.jsonl").write_text(json.dumps(row))
        return str(tmp_path)

    return write


def test_the_floors_of_the_first_candidates_are_those_of_these(ranked):
    spec = RunSpec(task="msmarco", data=ranked())
    assert ablation.floors(spec)["bag of words"] == pytest.approx(100 / 3)
    assert ablation.floors(dataclasses.replace(spec, candidates=2))["bag of words"] == 0


def test_the_floors_follow_data_that_change_in_place(ranked):
    spec = RunSpec(task="msmarco", data=ranked())
    before = ablation.floors(spec)["bag of words"]
    ranked(relevant=1)
    assert before < ablation.floors(spec)["bag of words"] == 100


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_about_variants_that_differ_in_one_thing_and_can_be_run(name):
    claim = CLAIMS[name]
    firsts, seconds = ([RunSpec(task="rte", **one) for one in side] for side in (claim.first, claim.second))
    for first, second in product(firsts, seconds):
        differ = {f.name for f in dataclasses.fields(first) if getattr(first, f.name) != getattr(second, f.name)}
        assert differ in ({"attention"}, {"pooling"}, {"padding"}, {"attention_dropout", "ffn_dropout"})


def test_every_variant_of_the_claims_is_run_once():
    specs = [RunSpec(task="rte", **one) for one in variants().values()]
    assert len(set(specs)) == len(specs) == 12
    assert variant_name({}) == "the paper's default"
    assert variant_name({"pooling": "last", "attention": "causal"}) == "pooling last, attention causal"
    assert variant_name({"attention_dropout": 0.0, "ffn_dropout": 0.15}) == "attention dropout 0, ffn dropout 0.15"


def test_the_claims_cover_what_the_paper_says():
    assert set(CLAIMS) >= {
        "mask, mean", "mask, mean, 9B", "dropout, 0", "dropout, 0.15", "dropout, 0.2", "dropout, best",
        "pooling, last", "pooling, query-probe", "pooling, kv-probe", "pooling, best", "padding",
    }  # fmt: skip
    assert set(UNTESTED) == {"T5, GLUE", "T5, SuperGLUE", "RankT5"}


def test_what_the_paper_was_not_found_to_say_is_our_question():
    assert [name for name, claim in CLAIMS.items() if claim.ours] == ["mask, last"]
    assert CLAIMS["mask, last"].source == "not published here; our question"
    assert CLAIMS["padding"].source == "padding comparison; no number known; said to be not significant"
    assert CLAIMS["mask, mean"].source == "Table 6; +4.9 points there, 2B on GLUE, second-hand [B]"
    assert (
        CLAIMS["mask, mean, 9B"].source
        == "Table 6; +3.4 points there, 9B on GLUE, inferred [C]; its pooler taken to be mean"
    )


def test_the_claim_about_9b_is_judged_by_the_runs_of_the_one_about_2b():
    small, large = CLAIMS["mask, mean"], CLAIMS["mask, mean, 9B"]
    assert (small.first, small.second, small.names) == (large.first, large.second, large.names)


def by_seed(*values):
    return pd.Series(values, index=[0, 1], dtype=float)


def test_of_several_variants_the_best_ones_are_compared_whichever_they_are():
    scores = {
        "the paper's default": by_seed(70, 72),
        "pooling last": by_seed(90, 60),
        "pooling query-probe": by_seed(71, 69),
        "pooling kv-probe": by_seed(95, 10),
    }
    of = compare(CLAIMS["pooling, best"], scores)
    assert (of.difference, of.n, of.names) == (5, 2, ("the best of mean and last", "the best probe"))
    assert compare(CLAIMS["pooling, last"], scores).difference == -4


def rates(*others):
    """Scores of rate 0.1 and of four others, three seeds each."""
    names = ["the paper's default", *(variant_name(one) for one in CLAIMS["dropout, best"].second)]
    return {
        name: pd.Series(values, dtype=float) for name, values in zip(names, ([80.0, 81.0, 82.0], *others), strict=True)
    }


def test_an_optimum_has_to_beat_every_rival_also_one_of_a_lower_mean_that_is_less_certain():
    claim, worse = CLAIMS["dropout, best"], [79.0, 80.0, 81.1]
    assert judge(claim, compare(claim, rates(worse, worse, worse, worse)), 1.0) == "supported"
    unsure = [60.0, 95.0, 70.0]
    of = compare(claim, rates(worse, worse, worse, unsure))
    assert judge(claim, of, 1.0) == "cannot tell at this size"
    assert of.low < 0 < of.difference == pytest.approx(0.967, abs=1e-3)


def test_one_rival_of_several_refutes_an_optimum_only_where_it_would_by_the_wider_interval():
    claim, worse, better = CLAIMS["dropout, best"], [70.0, 71.0, 72.0], [81.0, 82.2, 82.9]
    alone = paired(rates(worse, worse, worse, better)["the paper's default"], pd.Series(better))
    of = compare(claim, rates(worse, worse, worse, better))
    assert alone.high < of.high == paired(pd.Series([80.0, 81, 82]), pd.Series(better), level=at_once(4)).high


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_interval_of_the_best_ones_holds_their_difference(seed):
    source = np.random.default_rng(seed)
    claim = CLAIMS["pooling, best"]
    scores = {variant_name(one): pd.Series(source.normal(70, 5, 4)) for one in (*claim.first, *claim.second)}
    of = compare(claim, scores)
    assert of.low <= of.difference <= of.high


def test_no_cell_of_paper_here_difference_is_blank():
    of = Paired(0.5, -4.6, 5.5, 5)
    here = {"here": "+0.5 (-4.6 to +5.5)"}
    assert beside(of, CLAIMS["mask, mean"]) == {"paper": "+4.9", "here - paper": "-4.4"} | here
    assert beside(of, None) == {"paper": UNKNOWN, "here - paper": UNKNOWN} | here
    ours = {"paper": f"{UNKNOWN} (our question)", "here - paper": UNKNOWN}
    assert beside(of, CLAIMS["mask, last"]) == ours | here
    assert beside(Paired(0.5, float("nan"), float("nan"), 1), None)["here"] == "+0.5 (1 seed, no interval)"
    assert (signed(None), difference(3.0, None), UNKNOWN) == ("not published here",) * 3
    assert (signed(-0.04), difference(3.0, 4.26)) == ("+0.0", "-1.3")


@pytest.mark.parametrize("learnt", [(False, True), (True, False), (False, False)])
def test_what_was_not_learnt_judges_no_claim(learnt, capsys):
    clear = Paired(25.7, 23.7, 27.7, 5, ("mean", "kv-probe"))
    claim = CLAIMS["pooling, kv-probe"]
    assert judge(claim, clear, 1.0) == "supported"
    assert judge(claim, clear, 1.0, learnt) == "cannot tell at this size"
    display_claim(claim, clear, "One task", learnt=learnt)
    shown = capsys.readouterr().out
    assert "cannot tell at this size: Mean pooling beats" in shown and "supported" not in shown
    for name, good in zip(clear.names, learnt, strict=True):
        assert (f"With this training {name} is not shown to get above" in shown) != good


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(3, 6, "paper's +4.9 lies within this interval."), (-2, 4, "paper's +4.9 lies outside this interval: this model")],
)
def test_a_verdict_says_whether_the_paper_could_be_right_here(capsys, low, high, said):
    claim = CLAIMS["mask, mean"]
    of = Paired((low + high) / 2, low, high, 5, claim.names)
    display_claim(claim, of, "One task")
    assert said in capsys.readouterr().out
    display_claim(claim, of, "One task", learnt=(True, False))
    display_claim(CLAIMS["mask, last"], of, "One task")  # of which the paper's number is not known
    assert "this interval" not in capsys.readouterr().out


def test_the_caution_of_a_side_of_several_variants_says_that_it_is_one_of_them(capsys):
    claim = CLAIMS["pooling, best"]
    display_claim(claim, Paired(9, 8, 10, 5, claim.names), "One task", learnt=(True, False))
    assert "a variant behind the best probe is not shown to get above what needs no model" in capsys.readouterr().out


@pytest.mark.parametrize("name", UNTESTED)
def test_a_claim_about_a_model_that_is_not_run_says_why_nothing_can_be_told(name, capsys):
    display_untested(UNTESTED[name])
    shown = capsys.readouterr().out
    assert f"{VERDICTS[2]}: {UNTESTED[name].says} ({UNTESTED[name].place}; no number known)." in shown
    assert "is run here" in shown and "notebook" in shown


def test_claims_carry_the_published_differences_and_nothing_where_none_is_known():
    gaps = {name: claim.published_gap for name, claim in CLAIMS.items()}
    known = {name: round(gap, 1) for name, gap in gaps.items() if gap is not None}
    assert known == {
        "mask, mean": 4.9,
        "mask, mean, 9B": 3.4,
        "pooling, last": 0.3,
        "pooling, query-probe": 0.4,
        "pooling, kv-probe": 0.4,
        "dropout, 0": 2.2,
    }


def test_a_claim_of_equality_needs_the_interval_within_the_margin(capsys):
    near = Paired(0.1, -0.4, 0.6, 5, ("left padding", "right padding"))
    assert judge(CLAIMS["padding"], near, margin=1.0) == "supported"
    assert judge(CLAIMS["padding"], near, margin=0.5) == "cannot tell at this size"
    assert judge(CLAIMS["mask, mean"], near, margin=1.0) == "cannot tell at this size"
    display_claim(CLAIMS["padding"], near, "Mean of 1 task", margin=1.0)
    assert "supported: Left and right padding" in (shown := capsys.readouterr().out) and "±1 points" in shown
    assert "what needs no model" not in shown
    display_claim(CLAIMS["padding"], near, "Mean of 1 task", learnt=(True, False))
    assert (
        "With this training right padding is not shown to get above what needs no model: this compares training"
        in capsys.readouterr().out
    )


def test_the_settings_of_a_task_go_before_those_of_all_and_after_those_of_the_variant(asked):
    per_task = {"rte": {"epochs": 5, "pooling": "last"}}
    ablation.run_variants({"first": {"pooling": "first"}}, ["cola", "rte"], [0], 1, per_task, epochs=2)
    assert [(spec.task, spec.epochs, spec.pooling) for spec in asked] == [("cola", 2, "first"), ("rte", 5, "first")]


def test_an_unknown_setting_of_a_task_is_refused_with_the_nearest_one(asked):
    with pytest.raises(InputError, match=r"unknown setting 'epoch' \(did you mean 'epochs'"):
        ablation.run_variants({"first": {}}, ["cola"], [0], 1, {"cola": {"epoch": 5}})
