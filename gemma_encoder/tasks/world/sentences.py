"""Built-in tasks on one sentence: acceptability (cola), sentiment (sst2), whom a pronoun means (wsc).

A maker takes the random source, the split and the label wanted, and returns the columns of one row.
"""

from __future__ import annotations

from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.causes import reason
from gemma_encoder.tasks.world.facts import draw
from gemma_encoder.tasks.world.grammar import participle, past, people, sentence
from gemma_encoder.tasks.world.habits import habit, reflexive
from gemma_encoder.tasks.world.opinions import contrast, hearsay, hope, opinion

# Difficulty: how often each maker is drawn, how many opinions are negated, how often gender gives a pronoun away.
ACCEPTABILITY = {"agreement": 50, "reflexive": 20, "support": 15, "order": 15}
SENTIMENT = {"plain": 40, "contrast": 25, "hope": 15, "hearsay": 20}
NEGATED = 0.4
SAME_GENDER = 0.3


def _agreement(rng: Random, split: str, right: bool) -> str:
    """A verb that agrees with its head noun, or with the wrong one."""
    return habit(rng, split, link=True).say(agree=right)


def _support(rng: Random, split: str, right: bool) -> str:
    """The base form after did, the participle after was; or one in the place of the other."""
    deed = draw(rng, split, people(rng, 3), ("deed",))
    other = past(deed.verb) if rng.random() < 0.5 else participle(deed.verb)
    if rng.random() < 0.5 or other == deed.verb:
        return f"{deed.agent.text} did not {deed.verb if right else other} {deed.patient.text}"
    shape = participle(deed.verb) if right else deed.verb
    return f"{deed.patient.text} was not {shape} by {deed.agent.text}"


def _order(rng: Random, split: str, right: bool) -> str:
    """Subject, verb, object; or another order."""
    deed = draw(rng, split, people(rng, 3), ("deed", "act"))
    a, v, p, tail = deed.agent.text, past(deed.verbs()[-1]), deed.patient.text, deed.tail()
    words = (a, v, p) if right else rng.choice(((v, a, p), (a, p, v)))
    return " ".join((*words, tail) if tail else words)


def cola(rng: Random, split: str, label: int) -> dict[str, str]:
    """Is the sentence acceptable English (1) or not (0)."""
    makers = {"agreement": _agreement, "reflexive": reflexive, "support": _support, "order": _order}
    name = rng.choices(list(ACCEPTABILITY), list(ACCEPTABILITY.values()))[0]
    return {"sentence": sentence(makers[name](rng, split, bool(label)))}


def sst2(rng: Random, split: str, label: int) -> dict[str, str]:
    """Is the verdict positive (1) or negative (0); negation, contrast and disappointed hope stand in the way."""
    name = rng.choices(list(SENTIMENT), list(SENTIMENT.values()))[0]
    if name == "plain":
        who = rng.choice(("", people(rng, 1)[0].text))
        text = rng.choice(opinion(rng, split, bool(label), lexicon.JUDGED, NEGATED).forms(who))
    else:
        text = {"contrast": contrast, "hope": hope, "hearsay": hearsay}[name](rng, split, bool(label), NEGATED)
    return {"sentence": sentence(text)}


def wsc(rng: Random, split: str, label: int) -> dict[str, str | int]:
    """Does the pronoun mean the person named (1), or another one (0); the reason decides, and often gender too."""
    same = rng.random() < SAME_GENDER
    while ((made := reason(rng, split, 0.0)).meant.gender == made.rival.gender) != same:
        pass
    text = sentence(rng.choice(made.forms()))
    words = text.replace(",", "").rstrip(".").split()
    name, pronoun = (made.meant if label else made.rival).text, made.meant.subject
    return {
        "text": text,
        "span1_index": words.index(name),
        "span2_index": words.index(pronoun),
        "span1_text": name,
        "span2_text": pronoun,
    }
