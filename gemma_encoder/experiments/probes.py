"""Does a causal language model know the built-in world? Two probes on content that its pretraining never held."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from gemma_encoder.loading import load_tokenizer, load_with
from gemma_encoder.tasks.world.grammar import sentence
from gemma_encoder.tasks.world.habits import habit
from gemma_encoder.tasks.world.stream import ask, facts_of_story, tell

PAIRS = 400  # of right and wrong sentences


def questions(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (story with question, answer) pairs: one to three facts, one question each time.

    A space comes first, here and below, as before every document that the decoder was trained on.
    """
    rng = Random(seed)
    while True:
        facts = facts_of_story(rng, "test", rng.randint(1, 3))
        told = [False] * len(facts)
        question, answer = ask(rng, facts, told)[0]
        yield f" {tell(rng, facts, told)} {question}", answer


def agreement_pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (right, wrong) pairs that differ in the number of the verb, with a noun of the other number before it."""
    rng = Random(seed)
    while True:
        made = habit(rng, "test", link=True)
        if made.plural != made.other_plural:
            yield f" {sentence(made.say())}", f" {sentence(made.say(agree=False))}"


@torch.no_grad()
def _scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each token given those before it, whether it is the most likely one, and which are real."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    logits = model(**batch, use_cache=False).logits[:, :-1].float()
    target = batch["input_ids"][:, 1:]
    chosen = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return chosen, logits.argmax(-1) == target, batch["attention_mask"][:, 1:].bool()


def answer_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int = 2000) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, over all, open and yes/no questions.

    Greedy decoding gives exactly the answer if and only if every token of the answer is the most likely one after the
    tokens before it, so one pass over question and answer decides.
    """
    right: dict[str, list[bool]] = {"open": [], "yes_no": []}
    source = questions(0)
    for _ in range(0, count, 50):
        pairs = [next(source) for _ in range(50)]
        _, best, real = _scores(model, tokenizer, [f"{question} {answer}" for question, answer in pairs])
        for row, (question, answer) in enumerate(pairs):
            start, end = len(tokenizer(question)["input_ids"]) - 1, int(real[row].sum())
            kind = "yes_no" if answer in ("Yes.", "No.") else "open"
            right[kind].append(bool(best[row, start:end].all()))
    right["all"] = right["open"] + right["yes_no"]
    return {kind: sum(rows) / len(rows) for kind, rows in right.items()}


def agreement_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of minimal pairs in which the right sentence is the more probable one."""
    right, wrong = zip(*islice(agreement_pairs(seed=0), PAIRS), strict=True)
    totals = []
    for texts in (right, wrong):
        chosen, _, real = _scores(model, tokenizer, list(texts))
        totals.append((chosen * real).sum(1))
    return (totals[0] > totals[1]).float().mean().item()


def knowledge(model: str) -> dict[str, float]:
    """Both probes on a checkpoint of a causal language model, in percent right of 2,000 answers and 400 pairs."""
    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    decoder = load_with(AutoModelForCausalLM.from_pretrained, model, **settings).eval()
    tokenizer = load_tokenizer(model)
    answers = answer_accuracy(decoder, tokenizer)
    shares = {"answers": answers["all"], "open questions": answers["open"], "yes or no": answers["yes_no"]}
    shares["agreement"] = agreement_accuracy(decoder, tokenizer)
    return {name: 100 * share for name, share in shares.items()}
