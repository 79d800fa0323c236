"""Checkpoints of Trainer hold pooler and head: the best comes back whole, a broken run goes on as if unbroken."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from gemma_encoder import GemmaEncoderForSequenceClassification
from gemma_encoder.lora import add_lora

KINDS = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


class Watch(TrainerCallback):
    """What the trained weights are after every update."""

    def __init__(self):
        self.steps = {}

    def on_step_end(self, args, state, control, model, **kwargs):
        self.steps[state.global_step] = trained(model)


def trained(model):
    """A copy of every weight that training may change."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.fixture
def trainer(tiny_decoder, tmp_path):
    """Function `(lora, seed, **arguments)`: a Trainer of a model whose new weights come from `seed`; dropout is on."""

    def make(lora, seed=0, **arguments):
        torch.manual_seed(seed)
        model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=3, pooling="kv-probe")
        source = torch.Generator().manual_seed(7)
        rows = [{"input_ids": torch.randint(3, 90, (6,), generator=source), "labels": i % 3} for i in range(8)]
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=2, max_steps=4, learning_rate=1e-2, optim="adamw_torch",
            save_strategy="steps", save_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, **arguments,
        )  # fmt: skip
        return Trainer(
            add_lora(model, rank=4) if lora else model,
            arguments,
            train_dataset=rows,
            eval_dataset=rows,
            callbacks=[Watch()],
        )

    return make


def watched(trainer):
    """The weights after every update of a trainer that has trained."""
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, Watch)).steps


def differing(one, other):
    """What part of the model each weight that differs is in."""
    assert one.keys() == other.keys()
    kinds = ("lora_", "head.", "pool.", "backbone.")
    return {next(kind for kind in kinds if kind in name) for name in one if not torch.equal(one[name], other[name])}


@KINDS
def test_the_best_checkpoint_comes_back_with_pooler_and_head(trainer, lora):
    scores = iter([0.1, 0.9, 0.5, 0.3])
    run = trainer(lora, load_best_model_at_end=True, metric_for_best_model="score", eval_strategy="steps", eval_steps=1)
    run.compute_metrics = lambda answers: {"score": next(scores)}
    run.train()
    steps = watched(run)
    assert run.state.best_global_step == 2
    assert differing(steps[4], steps[2]) == {"lora_" if lora else "backbone.", "head.", "pool."}
    assert differing(trained(run.model), steps[2]) == set()


@KINDS
def test_a_run_that_goes_on_from_a_checkpoint_equals_an_unbroken_one(trainer, tmp_path, lora):
    whole = trainer(lora)
    whole.train()
    resumed = trainer(lora, seed=1)  # other new weights, which the checkpoint has to replace
    start = trained(resumed.model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert sorted(watched(resumed)) == [3, 4]
    for step in (3, 4):
        assert differing(watched(resumed)[step], watched(whole)[step]) == set()
    assert {"head.", "pool."} <= differing(start, watched(resumed)[3])
