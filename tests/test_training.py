"""Training dynamics: processes that share a batch, examples learnt by heart, labels that mean nothing."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from gemma_encoder import GemmaEncoderForRanking, GemmaEncoderForSequenceClassification
from gemma_encoder.tasks import collate

SCRIPT = Path(__file__).with_name("one_update.py")


def start(processes, *arguments):
    """Run the script on this many processes side by side, joined by gloo; fails with what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        joined = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        environment = os.environ | {key: str(value) for key, value in joined.items()} if processes > 1 else os.environ
        environment = {**environment, "MASTER_ADDR": "127.0.0.1"}
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [process.communicate(timeout=300)[0].decode() for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(said)


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """Folder with what one process made of eight examples, and two processes of four each, at once or in two passes."""
    folder = tmp_path_factory.mktemp("updates")
    start(1, folder / "one", 8)
    start(2, folder / "two", 4, 2)
    return folder


@pytest.mark.parametrize(("batch", "passes"), [(4, 1), (2, 2)], ids=["at once", "accumulated"])
@pytest.mark.parametrize("head", ["classification", "regression", "ranking"])
def test_two_processes_make_the_update_of_one_big_batch(updates, head, batch, passes):
    names = f"one-{head}-8", f"two-{head}-{batch}"
    here, there = (json.loads((updates / f"{name}.json").read_text()) for name in names)
    assert [told[key] for told in (here, there) for key in ("processes", "passes")] == [1, 1, 2, passes]
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)
    one, two = (load_file(updates / f"{name}.safetensors") for name in names)
    assert one.keys() == two.keys()
    assert max(moved.abs().max().item() for moved in one.values()) > 1e-2, "there is no update to compare"
    for name, moved in one.items():
        torch.testing.assert_close(two[name], moved, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def overfitted(model, batch, updates=150):
    """The loss on one batch after so many updates on it, dropout off."""
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(updates):
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return loss.item()


STILL = {"attention_dropout": 0.0, "ffn_dropout": 0.0}


@pytest.mark.parametrize("pooling", ["mean", "last", "query-probe"])
def test_sixteen_examples_are_learnt_by_heart(tiny_decoder, make_batch, pooling):
    ids, mask = make_batch([5 + row % 7 for row in range(16)])
    labels = torch.arange(16) % 3
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=3, pooling=pooling, **STILL)
    assert overfitted(model, {"input_ids": ids, "attention_mask": mask, "labels": labels}) < 0.02


def test_sixteen_numbers_are_learnt_by_heart(tiny_decoder, make_batch):
    ids, mask = make_batch([5 + row % 7 for row in range(16)])
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(), num_labels=1, **STILL)
    assert overfitted(model, {"input_ids": ids, "attention_mask": mask, "labels": torch.linspace(0, 5, 16)}) < 0.02


@pytest.mark.parametrize("loss", ["listwise_softmax", "pointwise_logistic"])
def test_four_lists_are_learnt_by_heart(tiny_decoder, make_batch, loss):
    ids, mask = (part.unflatten(0, (4, 4)) for part in make_batch([5 + row % 7 for row in range(16)]))
    model = GemmaEncoderForRanking.from_decoder(tiny_decoder(), ranking_loss=loss, **STILL)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([2, 0, 3, 1])}
    assert overfitted(model, batch) < 0.02
    assert model(**batch).logits.argmax(dim=1).tolist() == [2, 0, 3, 1]


def labelled(count, shuffled, seed):
    """Rows whose label says whether token 7 occurs; `shuffled` labels say nothing."""
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 90, (count, 8), generator=source)
    labels = torch.arange(count) % 2
    where = torch.randint(1, 8, (count,), generator=source)
    ids[torch.arange(count), where] = torch.where(labels.bool(), 7, ids[torch.arange(count), where])
    if shuffled:
        labels = labels[torch.randperm(count, generator=source)]
    return ids, labels


@pytest.mark.parametrize("shuffled", [False, True], ids=["true labels", "shuffled labels"])
def test_only_true_labels_carry_over_to_unseen_rows(tiny_decoder, shuffled):
    ids, labels = labelled(256, shuffled, seed=0)
    unseen, truth = labelled(400, False, seed=1)
    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(initializer_range=0.1), num_labels=2)
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(8):
        for rows in torch.randperm(256).split(32):
            model(ids[rows], labels=labels[rows]).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    with torch.no_grad():
        accuracy = (model.eval()(unseen).logits.argmax(dim=1) == truth).float().mean().item()
    assert accuracy < 0.6 if shuffled else accuracy > 0.9


def test_grouping_by_length_takes_every_example_once_an_epoch(tiny_decoder, tmp_path):
    lengths = [3 + (17 * row) % 29 for row in range(400)]
    rows = Dataset.from_list(
        [{"input_ids": [row + 3] * length, "labels": row % 2} for row, length in enumerate(lengths)]
    )
    seen = []

    def watched(features):
        seen.append([row["input_ids"][0] - 3 for row in features])
        return collate(features, pad_id=0)

    model = GemmaEncoderForSequenceClassification.from_decoder(tiny_decoder(vocab_size=403), num_labels=2)
    arguments = TrainingArguments(
        tmp_path,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )
    Trainer(model, arguments, train_dataset=rows, data_collator=watched).train()
    assert sorted(row for batch in seen for row in batch) == list(range(400))
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in seen]
    assert sum(spread) / len(spread) < 10  # at random it is over 20
