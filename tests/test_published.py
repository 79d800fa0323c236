"""The numbers of the literature: their schema, and that nothing unknown is ever shown as known."""

import pandas as pd
import pytest

from gemma_encoder.errors import InputError
from gemma_encoder.reports.published import COLUMNS, FILES, FOLDER, MARKS, Published, published, value

TWO_B = "Gemma Encoder 2B"
KEYS = [column for column in COLUMNS if column not in ("value", "unit", "status", "confidence", "note")]
CELL = ["model", "attention", "pooling", "dropout", "padding", "task", "metric", "split"]  # one quantity
GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
KINDS = ("two values", "two readings", "not comparable", "weak source", "not credible")


def errata():
    return pd.read_csv(FOLDER / "errata.csv", dtype=str, keep_default_na=False)


def about(erratum):
    """The rows that an erratum is about."""
    named = {column: getattr(erratum, column) for column in ("model", "task") if getattr(erratum, column)}
    return published(**named)


@pytest.mark.parametrize("name", FILES)
def test_schema(name):
    table = pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert set(table["status"]) <= {"known", "unknown"}
    assert set(table["confidence"]) <= {*MARKS, ""}
    assert set(table["attention"]) <= {"", "causal", "bidirectional"}
    assert set(table["pooling"]) <= {"", "mean", "last", "first", "attention", "attention-query", "attention-kv"}
    assert set(table["padding"]) <= {"", "left", "right"}
    for column in ("source_id", "work", "place", "model", "task", "metric", "split"):
        assert (table[column] != "").all(), column
    known = table["status"] == "known"
    assert ((table["value"] != "") == known).all()
    assert (table.loc[known, "confidence"] != "").all()
    assert (table.loc[known, "source_id"] != "none").all()
    limit = table.loc[known, "unit"].map({"points": 100.0, "fraction": 1.0})
    lowest = -limit.where(table.loc[known, "metric"] == "difference", 0.0)
    assert pd.to_numeric(table.loc[known, "value"]).between(lowest, limit).all()
    assert not table.duplicated(subset=KEYS).any()


def test_schema_of_the_errata():
    table, readme = errata(), (FOLDER / "README.md").read_text(encoding="utf-8")
    assert tuple(table.columns) == ("work", "place", "model", "task", "kind", "conflict", "kept")
    assert set(table["kind"]) == set(KINDS)
    assert not [kind for kind in KINDS if f"| {kind} |" not in readme]
    for column in ("work", "kind", "conflict", "kept"):
        assert (table[column] != "").all(), column
    assert not table.duplicated(subset=["work", "place", "model", "task", "conflict"]).any()


def test_every_erratum_is_about_rows_that_are_there():
    for erratum in errata().itertuples():
        named = {name: getattr(erratum, name) for name in ("work", "place", "model", "task") if getattr(erratum, name)}
        assert len(published(**named)), erratum


def test_two_values_are_two_rows():
    for erratum in errata().query("kind == 'two values'").itertuples():
        values = about(erratum).query("status == 'known'")["value"].unique()
        assert len(values) == 2, erratum
        assert not [number for number in values if f"{number}" not in erratum.conflict], erratum


def test_rows_that_disagree_are_in_the_errata():
    known = published(status="known").fillna({"dropout": -1})
    # Ablations measure one variant in several places, so they repeat it.
    several = known.groupby(CELL)["value"].nunique().loc[lambda count: count > 1].reset_index()
    told = errata().query("kind == 'two values'")
    assert sorted(f"{row.model}, {row.task}" for row in several.itertuples()) == sorted(
        f"{row.model}, {row.task}" for row in told.itertuples()
    )


def test_what_is_not_comparable_has_a_note():
    for erratum in errata().query("kind == 'not comparable' and model != ''").itertuples():
        assert (about(erratum)["note"] != "").all(), erratum


@pytest.mark.parametrize("mark", ["A", "A-", "B", "C", "X"])
def test_readme_explains_every_mark_and_source(mark):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {mark} |" in readme
    for source in published()["source_id"].unique():
        assert f"`{source}`" in readme


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"place": "Table 6", "attention": "causal", "pooling": "mean"}, 84.5),
        ({"place": "Table 6", "attention": "bidirectional", "pooling": "mean"}, 89.4),
        ({"place": "Table 5", "pooling": "last"}, 89.1),
        ({"place": "Table 5", "pooling": "attention"}, 89.0),
        ({"place": "Figure 2", "dropout": 0.0}, 87.2),
        ({"place": "Figure 2", "dropout": 0.1}, 89.4),
    ],
)
def test_the_papers_ablations(filters, expected):
    assert value(model=TWO_B, task="glue", **filters) == Published(expected, filters["place"], "B")


def test_text_names_place_and_confidence():
    causal = value(place="Table 6", model=TWO_B, attention="causal", pooling="mean")
    assert str(causal) == "84.5 (Table 6, second-hand [B])"


def test_what_is_inferred_is_marked_so():
    assert value(place="Table 6", model="Gemma Encoder 9B", attention="causal", pooling="mean").confidence == "C"


@pytest.mark.parametrize(
    "filters",
    [
        {"place": "Table 6", "model": TWO_B, "attention": "causal", "pooling": "last"},
        {"place": "Figure 2", "model": TWO_B, "dropout": 0.15},
        {"model": TWO_B, "task": "sst2"},
        {"model": "RankT5", "metric": "ndcg@10"},
        {"model": "RankT5-Enc (Softmax)", "task": "msmarco", "metric": "ndcg@10"},
        {"model": "T5Gemma 9B-9B", "task": "superglue"},
        {"model": "Gemini Embedding"},
        {"model": "LLM2Vec"},
        {"model": "GritLM"},
        {"model": "tiny", "task": "a task of ours"},
    ],
)
def test_unknown_is_said_in_words(filters):
    assert str(value(**filters)) == "not published here"


def test_one_value_in_three_places_is_one_value():
    found = value(model=TWO_B, task="glue", value=89.4)
    assert found == Published(89.4, "Table 5, Table 6, Figure 2", "B")


def test_ambiguous_filters_are_refused():
    with pytest.raises(InputError, match=r"several values: 89\.4 .*89\.1"):
        value(place="Table 5", model=TWO_B)


@pytest.mark.parametrize(
    ("model", "task", "sources"),
    [
        ("DeBERTa-v3-large", "qqp", {"modernbert": 93.3, "deberta-readme": 93.0}),
        ("DeBERTa-v3-base", "glue", {"modernbert": 88.1, "computed": 88.3}),
        ("ModernBERT-large", "glue", {"modernbert": 90.4, "computed": 90.5}),
    ],
)
def test_of_two_sources_that_disagree_none_is_preferred(model, task, sources):
    with pytest.raises(InputError, match=r"several values: .*; narrow them, if need be by source_id") as caught:
        value(model=model, task=task)
    for source, number in sources.items():
        assert f"{number} ({source}: " in str(caught.value)
        assert value(model=model, task=task, source_id=source).value == number


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"model": TWO_B, "place": "Table 6", "metric": "difference"}, Published(4.9, "Table 6", "B")),
        ({"model": "Gemma Encoder 9B", "place": "Table 6", "metric": "difference"}, Published(3.4, "Table 6", "C")),
        ({"metric": "spearman with pretraining suite"}, Published(0.05, "text and tables", "A")),
        ({"task": "mteb-code", "place": "not stated"}, Published(68.14, "not stated", "B")),
    ],
)
def test_what_was_only_in_notes_is_a_row(filters, expected):
    assert value(**filters) == expected


@pytest.mark.parametrize("model", [TWO_B, "Gemma Encoder 9B"])
def test_the_gain_follows_from_table_6(model):
    both = [value(place="Table 6", model=model, attention=mask, pooling="mean") for mask in ("bidirectional", "causal")]
    gain = value(place="Table 6", model=model, metric="difference").value
    assert both[0].value - both[1].value == pytest.approx(gain)


@pytest.mark.parametrize("filters", [{"pooler": "mean"}, {"place": "Table 66"}, {"metric": "acuracy"}])
def test_a_misspelt_filter_is_refused_with_the_valid_ones(filters):
    with pytest.raises(InputError, match="valid: "):
        published(**filters)


def test_the_table_cannot_be_changed_by_its_reader():
    table = published()
    table["value"] = 0.0
    assert value(place="Table 5", model=TWO_B, pooling="mean").value == 89.4


@pytest.mark.parametrize("row", list(published(source_id="computed").itertuples()), ids=lambda row: row.model)
def test_computed_averages_follow_from_their_columns(row):
    mean = sum(value(model=row.model, task=task, work=row.work, place=row.place).value for task in GLUE) / 8
    assert row.value == pytest.approx(mean, abs=0.0501)
    assert row.confidence == "C"


@pytest.mark.parametrize("model", ["DeBERTa-v3-base", "ModernBERT-large"])
def test_reported_averages_are_near_the_mean_of_their_columns(model):
    both = [value(model=model, task="glue", source_id=source).value for source in ("modernbert", "computed")]
    assert both[0] == pytest.approx(both[1], abs=0.21)
