"""Built-in tasks on two texts: paraphrase (mrpc), similarity (stsb), entailment (rte, mnli), meanings of a word (wic).

A maker takes the random source, the split and the label wanted, and returns the columns of one row. All labels draw
from the same wordings, so that words alone say little: roles, negation and binding decide.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.compare import alike, changed, inferences, two_wordings
from gemma_encoder.tasks.world.facts import Fact, draw, draw_two, foils_of
from gemma_encoder.tasks.world.grammar import people, sentence
from gemma_encoder.tasks.world.senses import two_uses
from gemma_encoder.tasks.world.stream import tell

# Difficulty: how often a second fact stands beside the one that decides.
TWO_FACTS = {"mrpc": 0.1, "rte": 0.1, "mnli": 0.0}
SWAPS = {"mrpc": 0.4, "stsb": 0.15}  # how often a change swaps roles and leaves the words alone
CHANGES = 0.4  # stsb: how often each part is replaced
SWAPPABLE = ("deed", "deed", "transfer", "comparison", "spot")
MATCHED = ("deed", "deed", "comparison", "transfer", "act")
MISMATCHED = ("spot", "count")  # kinds of facts that mnli's training split does not have


def _foil(rng: Random, fact: Fact, swaps: float) -> Fact:
    """A false fact: roles swapped, or a part replaced where the kind of fact and the split allow it."""
    foils = foils_of(rng, fact)  # never empty: swapped roles are the same content
    return foils[0] if rng.random() < swaps or len(foils) == 1 else rng.choice(foils[1:])


def mrpc(rng: Random, split: str, label: int) -> dict[str, str]:
    """Do the sentences say the same (1), or is one fact another: roles swapped, a part replaced (0)."""
    facts = list(draw_two(rng, split, SWAPPABLE))[: 2 if rng.random() < TWO_FACTS["mrpc"] else 1]
    wrong = -1 if label else rng.randrange(len(facts))
    told = [_foil(rng, fact, SWAPS["mrpc"]) if i == wrong else fact for i, fact in enumerate(facts)]
    pairs = [two_wordings(rng, fact, other) for fact, other in zip(facts, told, strict=True)]
    left, right = (" and ".join(side) for side in zip(*pairs, strict=True))
    return {"sentence1": sentence(left), "sentence2": sentence(right)}


def stsb(rng: Random, split: str, label: int) -> dict[str, str | float]:
    """How alike are two deeds, 0 to 5: 1.25 for each of deed, doer, receiver and day; synonyms and voice are free."""
    deed = draw(rng, split, people(rng, 3), ("deed",))
    deed = replace(deed, place="", day=rng.choice(lexicon.DAYS))
    other = changed(rng, deed, SWAPS["stsb"], CHANGES)
    left, right = two_wordings(rng, deed, other)
    return {"sentence1": sentence(left), "sentence2": sentence(right), "label": 1.25 * sum(alike(deed, other))}


def _inference(rng: Random, split: str, verdict: str, kinds: tuple[str, ...], second: float) -> tuple[str, str]:
    """Premise and hypothesis; with chance `second` the premise tells another fact too."""
    while True:
        first, other = draw_two(rng, split, kinds)
        premise, hypotheses = inferences(rng, first)
        if hypotheses[verdict]:
            break
    texts = [sentence(premise)]
    if rng.random() < second:
        texts.insert(rng.randrange(2), tell(rng, [other], [False]))
    return " ".join(texts), sentence(rng.choice(hypotheses[verdict]))


def rte(rng: Random, split: str, label: int) -> dict[str, str]:
    """Does the second text follow from the first (0), or not (1): it contradicts it, or says what is not known."""
    verdict = rng.choice(("no", "maybe")) if label else "yes"
    premise, hypothesis = _inference(rng, split, verdict, (*SWAPPABLE, "act"), TWO_FACTS["rte"])
    return {"sentence1": premise, "sentence2": hypothesis}


def mnli(rng: Random, split: str, label: int) -> dict[str, str]:
    """Does the hypothesis follow (0), may it be so or not (1), or is it excluded (2)."""
    kinds = MISMATCHED if split.endswith("_mismatched") else MATCHED
    verdict = ("yes", "maybe", "no")[label]
    premise, hypothesis = _inference(rng, split.partition("_")[0], verdict, kinds, TWO_FACTS["mnli"])
    return {"premise": premise, "hypothesis": hypothesis}


def wic(rng: Random, split: str, label: int) -> dict[str, str | int]:
    """Has the word the same meaning in both sentences (1), or another one (0)."""
    uses = two_uses(rng, split, bool(label))
    row: dict[str, str | int] = {"word": uses[0].word}
    for number, made in enumerate(uses, 1):
        text = sentence(made.clause)
        start = f" {text.lower()} ".replace(".", " ").index(f" {made.word} ")
        row |= {f"sentence{number}": text, f"start{number}": start, f"end{number}": start + len(made.word)}
    order = ("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2")
    return {name: row[name] for name in order}
