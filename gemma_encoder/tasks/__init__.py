"""Tasks: what they are, where their rows come from, how rows become tokens, and how predictions are scored."""

from gemma_encoder.tasks.encode import collate, encode
from gemma_encoder.tasks.floors import bag_of_words, majority
from gemma_encoder.tasks.glue import GLUE
from gemma_encoder.tasks.metrics import METRICS, compute, score
from gemma_encoder.tasks.sources import digest, load
from gemma_encoder.tasks.task import HubSource, Task, get_task, register, task_names

__all__ = [
    "GLUE",
    "METRICS",
    "HubSource",
    "Task",
    "bag_of_words",
    "collate",
    "compute",
    "digest",
    "encode",
    "get_task",
    "load",
    "majority",
    "register",
    "score",
    "task_names",
]
