"""Tasks: what they are, where their rows come from, how rows become tokens, and how predictions are scored."""

from gemma_encoder.tasks.answers import answers, diagnose, submit
from gemma_encoder.tasks.diagnostics import DIAGNOSTICS, get_diagnostic
from gemma_encoder.tasks.encode import collate, encode
from gemma_encoder.tasks.floors import bag_of_words, bm25, majority
from gemma_encoder.tasks.glue import GLUE
from gemma_encoder.tasks.holdout import hold_out
from gemma_encoder.tasks.metrics import METRICS, compute, joined, score
from gemma_encoder.tasks.outputs import head_of, logits_of, loss_of, predictions_of, references_of
from gemma_encoder.tasks.ranking import RANKING, first_candidates, training_lists
from gemma_encoder.tasks.sources import digest, load, load_test, tasks_in
from gemma_encoder.tasks.submission import write_submission
from gemma_encoder.tasks.superglue import SUPERGLUE
from gemma_encoder.tasks.task import HubSource, Task, get_task, register, task_names

__all__ = [
    "DIAGNOSTICS",
    "GLUE",
    "METRICS",
    "RANKING",
    "SUPERGLUE",
    "HubSource",
    "Task",
    "answers",
    "bag_of_words",
    "bm25",
    "collate",
    "compute",
    "diagnose",
    "digest",
    "encode",
    "first_candidates",
    "get_diagnostic",
    "get_task",
    "head_of",
    "hold_out",
    "joined",
    "load",
    "load_test",
    "logits_of",
    "loss_of",
    "majority",
    "predictions_of",
    "references_of",
    "register",
    "score",
    "submit",
    "task_names",
    "tasks_in",
    "training_lists",
    "write_submission",
]
