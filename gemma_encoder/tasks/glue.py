"""The nine tasks of GLUE (Wang et al., 2018): columns, label order and metrics of the hub's nyu-mll/glue."""

from __future__ import annotations

from gemma_encoder.tasks.task import HubSource, Task, register

REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def _glue(name: str, title: str, text_columns: tuple[str, ...], labels: tuple[str, ...], **rest) -> Task:
    settings = {"kind": "classification", "metrics": ("accuracy",), **rest}
    hub = HubSource("nyu-mll/glue", name, REVISION)
    return register(Task(name, "glue", title, text_columns=text_columns, labels=labels, hub=hub, **settings))


COLA = _glue("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), metrics=("matthews",))

SST2 = _glue("sst2", "SST-2", ("sentence",), ("negative", "positive"))

MRPC = _glue(
    "mrpc",
    "MRPC",
    ("sentence1", "sentence2"),
    ("not_equivalent", "equivalent"),
    metrics=("accuracy", "f1"),
)

STSB = _glue(
    "stsb",
    "STS-B",
    ("sentence1", "sentence2"),
    (),
    kind="regression",
    label_range=(0.0, 5.0),
    metrics=("pearson", "spearman"),
)

QQP = _glue(
    "qqp",
    "QQP",
    ("question1", "question2"),
    ("not_duplicate", "duplicate"),
    metrics=("accuracy", "f1"),
    may_be_empty=("question2",),  # two rows of the official training split
)

MNLI = _glue(
    "mnli",
    "MNLI",
    ("premise", "hypothesis"),
    ("entailment", "neutral", "contradiction"),
    splits={
        "train": "train",
        "validation": "validation_matched",
        "validation_mismatched": "validation_mismatched",
    },
)

# here and in BoolQ the question comes last: what it asks about has been read by then, as in what decoders learn from
QNLI = _glue("qnli", "QNLI", ("sentence", "question"), ("entailment", "not_entailment"))

RTE = _glue("rte", "RTE", ("sentence1", "sentence2"), ("entailment", "not_entailment"))

WNLI = _glue("wnli", "WNLI", ("sentence1", "sentence2"), ("not_entailment", "entailment"))

GLUE = (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI)
