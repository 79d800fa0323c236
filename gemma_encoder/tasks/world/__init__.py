"""A small closed world: its facts, the pretraining stream about it, and built-in tasks in the columns of GLUE."""

from gemma_encoder.tasks.world.stream import documents

__all__ = ["documents"]
