"""A decoder that has read nothing: the control for what pretraining brings."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from gemma_encoder.experiments.shapes import config_of
from gemma_encoder.loading import load_tokenizer


def untrained(model: str, folder: Path | str, seed: int = 0) -> Path:
    """Write to `folder` a decoder of `model`'s architecture and tokenizer, its weights as transformers draws them.

    The weights are those with which pretraining would begin; `seed` fixes the draw. Raises InputError where `model`
    cannot be read.
    """
    folder = Path(folder)
    config = config_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = AutoModelForCausalLM.from_config(config)
    logging.disable_progress_bar()
    decoder.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return folder
