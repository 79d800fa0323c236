"""A small closed world: its facts, the pretraining stream about it, and twins of well-known tasks."""

from gemma_encoder.tasks.world.stream import documents
from gemma_encoder.tasks.world.write import MAKERS, write_tasks

__all__ = ["MAKERS", "documents", "write_tasks"]
