"""Metrics against values worked out by hand, against the formulas, and where they are undefined."""

import os
import subprocess
import sys
import warnings
from math import sqrt

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from gemma_encoder import InputError
from gemma_encoder.tasks import GLUE, METRICS, compute, get_task, score

CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
NUMBERS = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 20)), min_size=2, max_size=40)


@pytest.fixture(autouse=True)
def no_warnings():
    """Undefined values are defined here, so nothing may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def one(metric: str, predictions, references) -> float:
    return METRICS[metric]().compute(predictions=predictions, references=references)[metric]


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "value"),
    [
        ("accuracy", [0, 2, 1, 1], [0, 2, 2, 1], 3 / 4),
        # TP 2, FP 1, FN 1
        ("f1", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], 4 / 6),
        # TP 2, TN 1, FP 1, FN 1: (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2)
        ("matthews", [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], 1 / 6),
        ("matthews", [0, 1, 0], [1, 0, 1], -1.0),
        # deviations (-1, 0, 1) and (-1, -1, 2): 3 / sqrt(2 * 6)
        ("pearson", [1.0, 2.0, 3.0], [1.0, 1.0, 4.0], 3 / sqrt(12)),
        ("pearson", [1.0, 2.0, 3.0], [9.0, 7.0, 5.0], -1.0),
        # any increasing function keeps the ranks
        ("spearman", [1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0], 1.0),
        # ranks (1, 2, 3) and, with the tie averaged, (1.5, 1.5, 3): 1.5 / sqrt(2 * 1.5)
        ("spearman", [1.0, 2.0, 3.0], [1.0, 1.0, 4.0], 1.5 / sqrt(3)),
    ],
)
def test_values_worked_out_by_hand(metric, predictions, references, value):
    assert one(metric, predictions, references) == pytest.approx(value, abs=1e-12)


@settings(deadline=None)
@given(CLASSES)
def test_classification_metrics_are_their_formulas(pairs):
    predictions, references = map(np.array, zip(*pairs, strict=True))
    tp, tn = np.sum(predictions & references), np.sum((1 - predictions) & (1 - references))
    fp, fn = np.sum(predictions & (1 - references)), np.sum((1 - predictions) & references)
    assert one("accuracy", predictions, references) == pytest.approx((tp + tn) / len(pairs))
    assert one("f1", predictions, references) == pytest.approx(2 * tp / max(2 * tp + fp + fn, 1))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    matthews = (tp * tn - fp * fn) / sqrt(product) if product else 0.0
    assert one("matthews", predictions, references) == pytest.approx(matthews)


@settings(deadline=None)
@given(CLASSES)
def test_classification_metrics_are_those_of_scikit_learn(pairs):
    predictions, references = zip(*pairs, strict=True)
    assume(len(set(predictions)) == len(set(references)) == 2)
    assert one("accuracy", predictions, references) == accuracy_score(references, predictions)
    assert one("f1", predictions, references) == f1_score(references, predictions)
    assert one("matthews", predictions, references) == matthews_corrcoef(references, predictions)


@settings(deadline=None)
@given(NUMBERS)
def test_correlations_are_their_formulas(pairs):
    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    assume(np.ptp(x) and np.ptp(y))
    assert one("pearson", x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert one("spearman", x, y) == pytest.approx(np.corrcoef(rankdata(x), rankdata(y))[0, 1], abs=1e-9)


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize("constant", [0, 1])
def test_a_correlation_with_a_constant_is_zero(metric, constant):
    varied, same = [0, 1, 1, 0], [constant] * 4
    for predictions, references in ((same, varied), (varied, same), (same, same)):
        assert one(metric, predictions, references) == 0.0
    assert one(metric, [constant], [constant]) == 0.0


def test_rounding_noise_is_no_correlation():
    noise = [0.1 + 0.2, 0.3, 0.3, 0.3]
    assert len(set(noise)) == 2
    assert one("pearson", noise, [1.0, 2.0, 3.0, 4.0]) == one("spearman", noise, [1.0, 2.0, 3.0, 4.0]) == 0.0
    small_but_real = [3.000001, 3.000002, 3.000003, 3.000004]
    assert one("pearson", small_but_real, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("prediction", "values"), [(0, (0.25, 0.0)), (1, (0.75, 6 / 7))])
def test_f1_counts_class_1_only(prediction, values):
    found = compute(get_task("mrpc"), [prediction] * 4, [1, 1, 1, 0])
    assert (found["accuracy"], found["f1"]) == pytest.approx(values)


@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_perfect_predictions_score_100_on_every_task(task):
    references = list(range(task.num_labels)) if task.labels else [0.0, 2.5, 5.0]
    values = compute(task, references, references)
    assert tuple(values) == task.metrics
    assert {type(value) for value in values.values()} == {float}
    assert score(task, values) == pytest.approx(100)


def test_the_score_is_the_plain_mean_of_the_metrics():
    assert score(get_task("mrpc"), {"accuracy": 0.8, "f1": 0.9}) == pytest.approx(85)
    assert score(get_task("sst2"), {"accuracy": 0.5, "f1": 1.0}) == pytest.approx(50)


def test_arrays_and_tensors_are_as_good_as_lists():
    task = get_task("stsb")
    expected = compute(task, [1.0, 2.0, 3.0], [1.0, 1.0, 4.0])
    assert compute(task, np.float32([1, 2, 3]), torch.tensor([1.0, 1.0, 4.0])) == pytest.approx(expected)
    assert compute(get_task("sst2"), np.int32([0, 1]), torch.tensor([0, 0])) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("task", "predictions", "references", "message"),
    [
        (
            "sst2",
            [0, 1],
            [0, 1, 1],
            "predictions of shape (2,) for references of shape (3,); valid: one value per row in both",
        ),
        (
            "sst2",
            [[0.1, 0.9]],
            [[0.2, 0.8]],
            "predictions of shape (1, 2) for references of shape (1, 2); valid: one value per row in both",
        ),
        ("sst2", [], [], "no rows to score; valid: at least one prediction and its reference"),
        ("sst2", [0, 2], [0, 1], "prediction 2 in row 1 (counted from 0); valid for sst2: integers from 0 to 1"),
        ("mnli", [0, 2], [-1, 1], "reference -1 in row 0 (counted from 0); valid for mnli: integers from 0 to 2"),
        ("sst2", [0.0, 1.0], [0, 1], "prediction 0.0 in row 0 (counted from 0); valid for sst2: integers from 0 to 1"),
        ("stsb", [1.0, np.nan], [1, 2], "prediction nan in row 1 (counted from 0); valid for stsb: finite numbers"),
        ("stsb", [1.0, 2.0], [np.inf, 2], "reference inf in row 0 (counted from 0); valid for stsb: finite numbers"),
        (
            "copa",
            [0, -1],
            [0, 1],
            "prediction -1 in row 1 (counted from 0); valid for copa: a candidate's number, from 0",
        ),
        ("copa", [0.0], [1], "prediction 0.0 in row 0 (counted from 0); valid for copa: a candidate's number, from 0"),
        ("record", [7], [["a"]], "prediction 7 in row 0 (counted from 0); valid for record: a text"),
        (
            "multirc",
            [0.2],
            [{"question": "0-0", "label": 1}],
            "prediction 0.2 in row 0 (counted from 0); valid for multirc: integers from 0 to 1",
        ),
        ("stsb", ["1", "2"], [1, 2], "prediction 1 in row 0 (counted from 0); valid for stsb: finite numbers"),
    ],
)
def test_bad_input_is_named(task, predictions, references, message):
    with pytest.raises(InputError) as caught:
        compute(get_task(task), predictions, references)
    assert str(caught.value) == message


def test_they_are_metrics_of_evaluate():
    for name, metric in METRICS.items():
        assert issubclass(metric, evaluate.Metric) and metric().name == name and metric().description == metric.__doc__
    both = evaluate.combine([METRICS["accuracy"](), METRICS["f1"]()])
    assert both.compute(predictions=[1, 1, 0], references=[1, 0, 0]) == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})


def test_two_instances_at_work_share_nothing_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = METRICS["accuracy"](), METRICS["accuracy"]()
    first.add_batch(predictions=[0, 0], references=[0, 0])
    second.add_batch(predictions=[0, 0], references=[1, 1])
    first.add_batch(predictions=[0, 0], references=[0, 1])
    assert list(tmp_path.iterdir()) == []
    assert (first.compute(), second.compute()) == ({"accuracy": 0.75}, {"accuracy": 0.0})


def test_no_file_is_written_and_no_network_is_touched(tmp_path):
    code = """
import socket
from gemma_encoder.tasks import GLUE, compute
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
for task in GLUE:
    compute(task, [0, 1], [0, 1])
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    env |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []
