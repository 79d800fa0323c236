"""What people do in the world, and every way to say it, deny it, ask for it and get it wrong.

A fact, here and in `relations`, has these methods. Clauses have no capital at the start and no mark at the end.

key()        content key, the same for all wordings and for swapped roles; it decides the split
forms()      clauses that state the fact
denials()    clauses that state its negation
questions()  (question without mark, answer) pairs
polar()      yes/no questions without mark
foils(rng)   facts that a story which tells this one does not tell; the first has the same words in other roles
unknowns(rng)   facts that may be true or false where this one is true
opposites(rng)  facts that cannot be true where this one is
people()     who takes part
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.grammar import Noun, indefinite, participle, past, people, thing


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Deed:
    """agent did verb to patient, perhaps at a place or on a day."""

    verb: str
    agent: Noun
    patient: Noun
    place: str = ""
    day: str = ""

    def key(self) -> str:
        """Content key."""
        return "deed {} {} {}".format(self.verb, *sorted([self.agent.text, self.patient.text]))

    def people(self) -> list[Noun]:
        """Who takes part."""
        return [noun for noun in (self.agent, self.patient) if noun.gender != "t"]

    def verbs(self) -> list[str]:
        """The verb and its synonym."""
        other = (lexicon.BETWEEN_PEOPLE | lexicon.ON_THINGS)[self.verb]
        return [self.verb, other] if other else [self.verb]

    def tail(self) -> str:
        """Place and day."""
        return _joined(self.place and f"in the {self.place}", self.day and f"on {self.day}")

    def forms(self) -> list[str]:
        """Active, passive, cleft, fronted; each with the verb and its synonym."""
        a, p, tail, out = self.agent.text, self.patient.text, self.tail(), []
        for verb in self.verbs():
            out.append(_joined(a, past(verb), p, tail))
            out.append(_joined(p, "was", participle(verb), "by", a, tail))
            out.append(_joined("it was", a, "who", past(verb), p, tail))
            if tail:
                out.append(f"{tail}, {_joined(a, past(verb), p)}")
        return out

    def claims(self) -> list[str]:
        """Clauses from which the fact follows though they say more or say it roundabout."""
        rest = _joined(self.verb, self.patient.text, self.tail())
        return [f"{self.agent.text} {how} {rest}" for how in ("managed to", "did not fail to", "did not forget to")]

    def refusals(self) -> list[str]:
        """Clauses from which the negation follows."""
        rest = _joined(self.verb, self.patient.text, self.tail())
        return [f"{self.agent.text} {how} {rest}" for how in ("failed to", "did not manage to", "forgot to")]

    def generalised(self) -> list[str]:
        """What follows and says less: a kind for the thing, no place or day, somebody for the agent."""
        kinds = [kind for kind, members in lexicon.KINDS.items() if self.patient.text.split()[-1] in members]
        less = replace(self, place="", day="")
        out = [
            _joined("somebody", past(self.verb), self.patient.text),
            f"{self.patient.text} was {participle(self.verb)}",
        ]
        out += [form for kind in kinds for form in replace(less, patient=Noun(indefinite(kind), "t")).forms()[:2]]
        return out + (less.forms()[:2] if self.tail() else [])

    def denials(self) -> list[str]:
        """Negated active, passive and cleft."""
        a, p, tail, out = self.agent.text, self.patient.text, self.tail(), []
        for verb in self.verbs():
            out.append(_joined(a, "did not", verb, p, tail))
            out.append(_joined(p, "was not", participle(verb), "by", a, tail))
            out.append(_joined("it was not", a, "who", past(verb), p, tail))
        return out

    def questions(self) -> list[tuple[str, str]]:
        """Who did it, to whom, where, when."""
        a, p, out = self.agent.text, self.patient, []
        for verb in self.verbs():
            out.append((f"who {past(verb)} {p.text}", a))
            out.append((f"{p.who} did {a} {verb}", p.text))
            out.append((f"who was {p.text} {participle(verb)} by", a))
            out.append((f"{p.who} was {participle(verb)} by {a}", p.text))
            if self.place:
                out.append((f"where did {a} {verb} {p.text}", f"in the {self.place}"))
            if self.day:
                out.append((f"when did {a} {verb} {p.text}", f"on {self.day}"))
        return out

    def polar(self) -> list[str]:
        """Did a push b; was b pushed by a."""
        a, p = self.agent.text, self.patient.text
        return [q for v in self.verbs() for q in (f"did {a} {v} {p}", f"was {p} {participle(v)} by {a}")]

    def foils(self, rng: Random) -> list[Deed]:
        """Roles swapped (between people), another verb, another person."""
        table = lexicon.BETWEEN_PEOPLE if self.patient.gender != "t" else lexicon.ON_THINGS
        other = next(noun for noun in people(rng, 3) if noun not in (self.agent, self.patient))
        verb = rng.choice([name for name in table if name != self.verb])
        foils = [replace(self, agent=other), replace(self, verb=verb)]
        if self.patient.gender != "t":
            foils.insert(0, replace(self, agent=self.patient, patient=self.agent))
        return foils

    def unknowns(self, rng: Random) -> list[Deed]:
        """Whoever did one thing may have done others: all foils."""
        return self.foils(rng)

    def opposites(self, rng: Random) -> list[Deed]:
        """None but the denial."""
        return []


@dataclass(frozen=True)
class Transfer:
    """giver gave, sold, lent or mailed a thing to taker."""

    verb: str
    giver: Noun
    taker: Noun
    item: Noun

    def key(self) -> str:
        """Content key."""
        return "transfer {} {} {}".format(self.item.text, *sorted([self.giver.text, self.taker.text]))

    def people(self) -> list[Noun]:
        """Giver and taker."""
        return [self.giver, self.taker]

    def forms(self) -> list[str]:
        """From the giver's side and from the taker's."""
        a, b, t = self.giver.text, self.taker.text, self.item.text
        same, take = lexicon.TRANSFERS[self.verb]
        gave = past(self.verb)
        out = [
            f"{a} {gave} {t} to {b}",
            f"{b} {past(take)} {t} from {a}",
            f"{t} was {participle(self.verb)} to {b} by {a}",
            f"it was {b} who {past(take)} {t} from {a}",
        ]
        return [*out, f"{a} {past(same)} {t} to {b}"] if same else out

    def denials(self) -> list[str]:
        """Negated, from both sides."""
        a, b, t = self.giver.text, self.taker.text, self.item.text
        take = lexicon.TRANSFERS[self.verb][1]
        return [f"{a} did not {self.verb} {t} to {b}", f"{b} did not {take} {t} from {a}"]

    def questions(self) -> list[tuple[str, str]]:
        """Who gave, who got, what."""
        a, b, t = self.giver.text, self.taker.text, self.item.text
        take = lexicon.TRANSFERS[self.verb][1]
        return [
            (f"who {past(self.verb)} {t} to {b}", a),
            (f"who {past(take)} {t} from {a}", b),
            (f"what did {a} {self.verb} to {b}", t),
            (f"what did {b} {take} from {a}", t),
            (f"who did {a} {self.verb} {t} to", b),
            (f"who did {b} {take} {t} from", a),
        ]

    def polar(self) -> list[str]:
        """Did a give it to b; did b get it from a."""
        a, b, t = self.giver.text, self.taker.text, self.item.text
        return [f"did {a} {self.verb} {t} to {b}", f"did {b} {lexicon.TRANSFERS[self.verb][1]} {t} from {a}"]

    def foils(self, rng: Random) -> list[Transfer]:
        """Giver and taker swapped, another thing."""
        item = next(item for item in iter(lambda: thing(rng), None) if item != self.item)
        return [replace(self, giver=self.taker, taker=self.giver), replace(self, item=item)]

    def unknowns(self, rng: Random) -> list[Transfer]:
        """As for deeds: all foils."""
        return self.foils(rng)

    def opposites(self, rng: Random) -> list[Transfer]:
        """None but the denial."""
        return []
