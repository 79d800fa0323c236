"""The nine tasks of GLUE (Wang et al., 2018): columns, label order and metrics of the hub's nyu-mll/glue."""

from __future__ import annotations

from gemma_encoder.tasks.task import HubSource, Task, register

REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def _glue(name: str, title: str, text_columns: tuple[str, ...], labels: tuple[str, ...], **rest) -> Task:
    settings = {"kind": "classification", "metrics": ("accuracy",), **rest}
    hub = HubSource("nyu-mll/glue", name, REVISION)
    return register(Task(name, "glue", title, text_columns=text_columns, labels=labels, hub=hub, **settings))


COLA = _glue(
    "cola",
    "CoLA",
    ("sentence",),
    ("unacceptable", "acceptable"),
    metrics=("matthews",),
    asks="is the sentence well-formed English",
)

SST2 = _glue(
    "sst2", "SST-2", ("sentence",), ("negative", "positive"), asks="is the verdict of the sentence good or bad"
)

MRPC = _glue(
    "mrpc",
    "MRPC",
    ("sentence1", "sentence2"),
    ("not_equivalent", "equivalent"),
    metrics=("accuracy", "f1"),
    asks="do both sentences say the same",
)

STSB = _glue(
    "stsb",
    "STS-B",
    ("sentence1", "sentence2"),
    (),
    kind="regression",
    label_range=(0.0, 5.0),
    metrics=("pearson", "spearman"),
    asks="how alike are both sentences, from 0 to 5",
)

QQP = _glue(
    "qqp",
    "QQP",
    ("question1", "question2"),
    ("not_duplicate", "duplicate"),
    metrics=("accuracy", "f1"),
    asks="do both questions ask the same",
    may_be_empty=("question2",),  # two rows of the official training split
)

MNLI = _glue(
    "mnli",
    "MNLI",
    ("premise", "hypothesis"),
    ("entailment", "neutral", "contradiction"),
    asks="does the hypothesis follow from the premise, may it be so, or is it excluded",
    splits={
        "train": "train",
        "validation": "validation_matched",
        "validation_mismatched": "validation_mismatched",
    },
)

# here and in BoolQ the question comes last: what it asks about has been read by then, as in what decoders learn from
QNLI = _glue(
    "qnli",
    "QNLI",
    ("sentence", "question"),
    ("entailment", "not_entailment"),
    asks="does the sentence hold the answer to the question",
)

RTE = _glue(
    "rte",
    "RTE",
    ("sentence1", "sentence2"),
    ("entailment", "not_entailment"),
    asks="does the second follow from the first",
)

WNLI = _glue(
    "wnli",
    "WNLI",
    ("sentence1", "sentence2"),
    ("not_entailment", "entailment"),
    asks="does the second follow, with a name in place of a pronoun of the first",
)

GLUE = (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI)
