"""A small closed world: its facts, the pretraining stream about it, and built-in tasks in the columns of GLUE."""

from gemma_encoder.tasks.world.stream import documents
from gemma_encoder.tasks.world.write import MAKERS, write_tasks

__all__ = ["MAKERS", "documents", "write_tasks"]
