"""Tasks: what they are, where their rows come from, how rows become tokens, and how predictions are scored."""

from gemma_encoder.tasks.encode import collate, encode
from gemma_encoder.tasks.floors import bag_of_words, bm25, majority
from gemma_encoder.tasks.glue import GLUE
from gemma_encoder.tasks.metrics import METRICS, average, compute, joined, score
from gemma_encoder.tasks.outputs import head_of, logits_of, loss_of, predictions_of, references_of
from gemma_encoder.tasks.ranking import RANKING, training_lists
from gemma_encoder.tasks.sources import digest, load
from gemma_encoder.tasks.submission import write_submission
from gemma_encoder.tasks.superglue import SUPERGLUE
from gemma_encoder.tasks.task import HubSource, Task, get_task, register, task_names

__all__ = [
    "GLUE",
    "METRICS",
    "RANKING",
    "SUPERGLUE",
    "HubSource",
    "Task",
    "average",
    "bag_of_words",
    "bm25",
    "collate",
    "compute",
    "digest",
    "encode",
    "get_task",
    "head_of",
    "joined",
    "load",
    "logits_of",
    "loss_of",
    "majority",
    "predictions_of",
    "references_of",
    "register",
    "score",
    "task_names",
    "training_lists",
    "write_submission",
]
