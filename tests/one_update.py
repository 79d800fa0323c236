"""A script: one update of a tiny classifier and a tiny ranking model by Trainer, on as many processes as started it.

    python one_update.py BATCH_PER_PROCESS OUT

Eight examples of unequal lengths make each update. The weights of the first process and the loss go to OUT-HEAD.
"""

import json
import sys
import tempfile

import torch
from safetensors.torch import save_model
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from gemma_encoder import GemmaEncoderForRanking, GemmaEncoderForSequenceClassification

HEADS = {"ranking": GemmaEncoderForRanking, "classification": GemmaEncoderForSequenceClassification}
WIDTH = 12


def examples(head: str) -> list[dict[str, torch.Tensor]]:
    """Rows of 3 to 10 tokens; for ranking, lists of 2 to 4 of them, empty slots behind."""
    source, found = torch.Generator().manual_seed(3), []
    for index in range(8):
        slots = 4 if head == "ranking" else 1
        lengths = torch.tensor([3 + (index * 5 + slot) % 8 for slot in range(slots)])
        lengths[2 + index % 3 :] = 0
        mask = (torch.arange(WIDTH) < lengths[:, None]).long()
        ids = torch.randint(3, 97, (slots, WIDTH), generator=source) * mask
        row = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(index % 2)}
        found.append(row if head == "ranking" else row | {"input_ids": ids[0], "attention_mask": mask[0]})
    return found


def update(head: str, batch: int, out: str) -> None:
    torch.manual_seed(1)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    decoder = AutoModel.from_config(AutoConfig.for_model("gemma2", **sizes, **heads))
    labels = {"num_labels": 2} if head == "classification" else {}
    model = HEADS[head].from_decoder(decoder, attention_dropout=0.0, ffn_dropout=0.0, **labels)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=1,
            per_device_train_batch_size=batch,
            optim="sgd",
            learning_rate=0.1,
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
        save_model(trainer.model, f"{out}-{head}.safetensors")
        loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
        with open(f"{out}-{head}.json", "w") as file:
            json.dump({"loss": loss, "processes": trainer.args.world_size}, file)


if __name__ == "__main__":
    for each in HEADS:
        update(each, int(sys.argv[1]), sys.argv[2])
