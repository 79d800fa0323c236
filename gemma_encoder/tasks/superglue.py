"""The eight tasks of SuperGLUE (Wang et al., 2019): columns, label order and metrics of the hub's aps/super_glue."""

from __future__ import annotations

from gemma_encoder.tasks.task import HubSource, Task, register

# The commit, of Parquet files, that public programs pin for BoolQ, CB, COPA, MultiRC, ReCoRD, RTE and WiC. That it has
# the configurations wsc (not wsc.fixed), axb and axg is assumed; one that is not there ends in one clear line.
REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
NO_YES = ("False", "True")


def _superglue(name: str, title: str, text_columns: tuple[str, ...], labels: tuple[str, ...], **rest) -> Task:
    """A task whose folder and hub configuration have its name; `config` is that name where it differs."""
    config = rest.pop("config", name)
    settings = {"kind": "classification", "metrics": ("accuracy",), "folder": f"super_glue/{config}", **rest}
    hub = HubSource("aps/super_glue", config, REVISION)
    return register(Task(name, "super_glue", title, text_columns=text_columns, labels=labels, hub=hub, **settings))


BOOLQ = _superglue("boolq", "BoolQ", ("passage", "question"), NO_YES, asks="is the answer to the question yes")

CB = _superglue(
    "cb",
    "CB",
    ("premise", "hypothesis"),
    ("entailment", "contradiction", "neutral"),
    metrics=("accuracy", "macro_f1"),
    asks="does the hypothesis follow from the premise, is it excluded, or may it be so",
)

COPA = _superglue(
    "copa",
    "COPA",
    ("premise", "question", "choice"),
    (),
    kind="choice",
    view="copa",
    asks="which choice is the cause of the premise, or its effect",
)

MULTIRC = _superglue(
    "multirc",
    "MultiRC",
    ("paragraph", "question", "answer"),
    NO_YES,
    metrics=("f1a", "em_question"),
    view="multirc",
    asks="is the answer right, one of several that may be",
    may_be_empty=("answer",),  # three rows of the official training split
)

RECORD = _superglue(
    "record",
    "ReCoRD",
    ("passage", "query", "entity"),
    (),
    kind="choice",
    metrics=("f1_token", "em"),
    view="record",
    asks="which name of the passage belongs in the gap of the query",
)

RTE = _superglue(
    "rte_superglue",
    "RTE (SuperGLUE)",
    ("premise", "hypothesis"),
    ("entailment", "not_entailment"),
    config="rte",
    asks="does the hypothesis follow from the premise",
)

WIC = _superglue(
    "wic",
    "WiC",
    ("sentence1", "sentence2", "word"),
    NO_YES,
    view="wic",
    asks="has the marked word the same meaning in both sentences",
)

WSC = _superglue(
    "wsc", "WSC", ("text", "span1_text"), NO_YES, view="wsc", asks="does the marked pronoun mean who is named"
)

SUPERGLUE = (BOOLQ, CB, COPA, MULTIRC, RECORD, RTE, WIC, WSC)
