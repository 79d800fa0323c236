"""A script: one update of tiny models by Trainer, on as many processes as started it.

    python one_update.py OUT BATCH_PER_PROCESS [BATCH_PER_PROCESS ...]

Eight examples of unequal lengths make each update; what one pass does not hold is accumulated over several. How far
every weight of the first process moved, and the loss, go to OUT-HEAD-BATCH.
"""

import json
import os
import sys
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from gemma_encoder import GemmaEncoderForRanking, GemmaEncoderForSequenceClassification

CLASSIFICATION, REGRESSION = ((GemmaEncoderForSequenceClassification, {"num_labels": count}) for count in (2, 1))
HEADS = {"ranking": (GemmaEncoderForRanking, {}), "classification": CLASSIFICATION, "regression": REGRESSION}
EXAMPLES, WIDTH = 8, 12


def examples(head: str) -> list[dict[str, torch.Tensor]]:
    """Rows of 3 to 10 tokens; for ranking, lists of 2 to 4 of them, empty slots behind."""
    source, found = torch.Generator().manual_seed(3), []
    for index in range(EXAMPLES):
        slots = 4 if head == "ranking" else 1
        lengths = torch.tensor([3 + (index * 5 + slot) % 8 for slot in range(slots)])
        lengths[2 + index % 3 :] = 0
        mask = (torch.arange(WIDTH) < lengths[:, None]).long()
        ids = torch.randint(3, 97, (slots, WIDTH), generator=source) * mask
        label = torch.tensor(index / 2 if head == "regression" else index % 2)
        row = {"input_ids": ids, "attention_mask": mask, "labels": label}
        found.append(row if head == "ranking" else row | {"input_ids": ids[0], "attention_mask": mask[0]})
    return found


def update(head: str, batch: int, out: str) -> None:
    torch.manual_seed(1)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    decoder = AutoModel.from_config(AutoConfig.for_model("gemma2", **sizes, **heads))
    kind, settings = HEADS[head]
    model = kind.from_decoder(decoder, attention_dropout=0.0, ffn_dropout=0.0, **settings)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=EXAMPLES // (batch * int(os.environ.get("WORLD_SIZE", "1"))),
            optim="sgd",
            learning_rate=1.0,  # the smallest of the three updates is still 0.01
            lr_scheduler_type="constant",
            max_grad_norm=1e9,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model, arguments, train_dataset=examples(head))
        trainer.train()
    if trainer.is_world_process_zero():
        plain = trainer.accelerator.unwrap_model(trainer.model)
        moved = {name: weight.detach() - before[name] for name, weight in plain.named_parameters()}
        save_file(moved, f"{out}-{head}-{batch}.safetensors")
        loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
        how = {"processes": trainer.args.world_size, "passes": trainer.args.gradient_accumulation_steps}
        with open(f"{out}-{head}-{batch}.json", "w") as file:
            json.dump({"loss": loss, **how}, file)


if __name__ == "__main__":
    for each in HEADS:
        for size in sys.argv[2:]:
            update(each, int(size), sys.argv[1])
