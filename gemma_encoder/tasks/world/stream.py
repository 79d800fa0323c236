"""The pretraining stream: short documents that give a causal language model a reason to learn the world.

Only content of the train split is used; no document has the form of a task's example.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.deeds import Deed, Transfer
from gemma_encoder.tasks.world.facts import Fact, draw
from gemma_encoder.tasks.world.grammar import Noun, couple, indefinite, people, sentence
from gemma_encoder.tasks.world.habits import habit, reflexive
from gemma_encoder.tasks.world.opinions import Opinion, contrast, feeling, hope, opinion
from gemma_encoder.tasks.world.relations import Comparison

SO = ("so", "that means that", "in other words,", "it follows that", "this shows that")
NOT_SO = ("it is not true that", "it is wrong to say that", "that does not mean that", "nobody says that")


def facts_of_story(rng: Random, split: str, count: int) -> list[Fact]:
    """Facts about a small cast; every two differ in content, so roles decide, not words."""
    cast = couple(rng) if rng.random() < 0.5 else people(rng, rng.choice((2, 3, 3, 4)))
    facts: list[Fact] = []
    while len(facts) < count:
        fact = draw(rng, split, cast)
        if all(fact.key() != known.key() for known in facts):
            facts.append(fact)
    return facts


def tell(rng: Random, facts: list[Fact], denied: list[bool]) -> str:
    """The facts as sentences; a subject named one sentence before may become a pronoun where nobody can mistake it."""
    out: list[str] = []
    last: list[Noun] = []
    for fact, no in zip(facts, denied, strict=True):
        clause = rng.choice(fact.denials() if no else fact.forms())
        for noun in fact.people()[:1]:
            rivals = [other for other in last if other.gender == noun.gender]
            if rivals == [noun] and noun.gender in "fm" and clause.startswith(noun.text) and rng.random() < 0.8:
                clause = noun.subject + clause[len(noun.text) :]
        if out and rng.random() < 0.25:
            clause = f"{rng.choice(('then', 'later', 'also,'))} {clause}"
        out.append(sentence(clause))
        last = fact.people()
    return " ".join(out)


def ask(rng: Random, facts: list[Fact], denied: list[bool]) -> list[tuple[str, str]]:
    """Questions with their only answer, in random order: about half open, a quarter yes, a quarter no."""
    told = [fact for fact, no in zip(facts, denied, strict=True) if not no]
    answers: dict[str, set[str]] = {}
    for fact in told:
        for question, answer in fact.questions():
            answers.setdefault(question, set()).add(answer)
    open_ones = [(question, *answer) for question, answer in answers.items() if len(answer) == 1]
    yes = list(dict.fromkeys(question for fact in told for question in fact.polar()))
    wrong = [foil for fact in told for foil in fact.foils(rng)[:2]]
    wrong += [fact for fact, no in zip(facts, denied, strict=True) if no]
    no = [question for question in dict.fromkeys(q for fact in wrong for q in fact.polar()) if question not in yes]
    picked = rng.sample(open_ones, min(len(open_ones), rng.randint(1, 3)))
    picked += [(question, "yes") for question in rng.sample(yes, min(len(yes), 1 + rng.randrange(2)))]
    picked += [(question, "no") for question in rng.sample(no, min(len(no), 1 + rng.randrange(2)))]
    rng.shuffle(picked)
    return [(sentence(question, "?"), sentence(answer)) for question, answer in picked]


def story(rng: Random, split: str) -> str:
    """A scene, then questions and answers."""
    facts = facts_of_story(rng, split, rng.choice((1, 1, 2, 2, 3, 4)))
    denied = [rng.random() < 0.15 for _ in facts]
    talk = " ".join(f"{question} {answer}" for question, answer in ask(rng, facts, denied))
    return f"{tell(rng, facts, denied)}{rng.choice((' ', ' ', chr(10)))}{talk}"


def consequence(rng: Random, split: str) -> str:
    """A statement, what follows from it and what does not."""
    fact = facts_of_story(rng, split, 1)[0]
    if isinstance(fact, Deed) and rng.random() < 0.5:
        first, then = rng.choice(
            (
                (rng.choice(fact.claims()), rng.choice(fact.forms())),
                (rng.choice(fact.refusals()), rng.choice(fact.denials())),
                (rng.choice(fact.forms()), rng.choice(fact.generalised())),
            )
        )
        return f"{sentence(first)} {sentence(f'{rng.choice(SO)} {then}')}"
    forms = rng.sample(fact.forms(), min(3, len(fact.forms())))
    out = [sentence(forms[0]), *(sentence(f"{rng.choice(SO)} {form}") for form in forms[1:])]
    out.append(sentence(f"{rng.choice(NOT_SO)} {rng.choice(fact.foils(rng)[0].forms())}"))
    if isinstance(fact, Transfer) and fact.verb in ("give", "sell"):
        out.append(sentence(f"now {fact.taker.text} has {fact.item.text}"))
    if isinstance(fact, Comparison):
        up, down, _ = lexicon.COMPARISONS[fact.adjective]
        out.append(sentence(f"the {up} of the two is {fact.more.text}, the {down} one is {fact.less.text}"))
    return " ".join(out)


def witnesses(rng: Random, split: str) -> str:
    """Two people tell what happened; they agree, or they contradict each other."""
    fact = facts_of_story(rng, split, 1)[0]
    other = [person for person in people(rng, 4) if person not in fact.people()]
    agree = rng.random() < 0.5
    told = fact if agree else rng.choice(fact.foils(rng)[:2])
    first, second = rng.choice(fact.forms()), rng.choice(told.forms())
    end = rng.choice(("They agreed.", "Both were right.") if agree else ("They did not agree.", "One was wrong."))
    return f"{sentence(f'{other[0].text} said that {first}')} {sentence(f'{other[1].text} said that {second}')} {end}"


def order(rng: Random, split: str) -> str:
    """Two deeds in time, asked about by pairs."""
    cast = people(rng, 3)
    one, two = (draw(rng, split, cast, ("deed", "act", "transfer")) for _ in range(2))
    a, b = rng.choice(one.forms()[:2]), rng.choice(two.forms()[:2])
    told = rng.choice(
        (f"{a} before {b}", f"{b} after {a}", f"after {a}, {b}", f"before {b}, {a}", f"{a}, and then {b}")
    )
    p, q = one.forms()[0], two.forms()[0]
    rows = [
        (f"was it first that {p}", "yes"),
        (f"was it first that {q}", "no"),
        ("what happened first", p),
        ("what happened last", q),
    ]
    rng.shuffle(rows)
    return " ".join([sentence(told), *(f"{sentence(x, '?')} {sentence(y)}" for x, y in rows[:2])])


def view(rng: Random, split: str) -> str:
    """An opinion with its reason, its consequence, and questions."""
    positive, who = rng.random() < 0.5, people(rng, 1)[0].text
    style = rng.randrange(3)
    if style == 0:
        verdict: Opinion = opinion(rng, split, positive, lexicon.JUDGED)
        first = rng.choice(verdict.forms())
        out = [
            f"{first}, so {feeling(rng, positive, 'it', who)}",
            f"{feeling(rng, positive, f'the {verdict.judged}', who)} because {first}",
        ]
        told = sentence(rng.choice(out))
    else:
        told = sentence((contrast if style == 1 else hope)(rng, split, positive))
        told += " " + sentence(f"so {feeling(rng, positive, 'it', who)}")
    mood = "good" if positive else "bad"
    ends = (
        f"So it was {mood}.",
        f"Was it good? {'Yes' if positive else 'No'}.",
        f"Was it bad? {'No' if positive else 'Yes'}.",
        f"In the end {who} was {'happy' if positive else 'not happy'}.",
        f"{sentence(who, '')} will {'' if positive else 'not '}go there again.",
    )
    return " ".join([told, *rng.sample(ends, 2)])


def description(rng: Random, split: str) -> str:
    """Present-tense sentences about habits, with a question, or people acting on themselves."""
    if rng.random() < 0.3:
        return sentence(reflexive(rng, split))
    first, second = habit(rng, split), habit(rng, split)
    which = ("these" if first.plural else "this") if rng.random() < 0.2 else "the"
    out = [sentence(first.say().replace("the", which, 1)), sentence(rng.choice((second.say, second.say_not))())]
    if rng.random() < 0.5:
        out += [sentence(first.say(ask=True), "?"), "Yes."]
    return " ".join(out)


def knowledge(rng: Random, split: str) -> str:
    """What is a kind of what; which words mean the same. The same in every split: it is language, not content."""
    if rng.random() < 0.5:
        verb, same = rng.choice([pair for pair in (lexicon.BETWEEN_PEOPLE | lexicon.ON_THINGS).items() if pair[1]])
        return rng.choice((f"To {verb} is to {same}.", f"To {same} is to {verb}."))
    kind, other = rng.sample(list(lexicon.KINDS), 2)
    word = rng.choice(lexicon.KINDS[kind])
    told = f"{sentence(indefinite(word))[:-1]} is {indefinite(kind)} and not {indefinite(other)}."
    return f"{told} Is {indefinite(word)} {indefinite(kind)}? Yes. Is {indefinite(word)} {indefinite(other)}? No."


MIX = ((story, 46), (consequence, 18), (witnesses, 10), (order, 7), (view, 12), (description, 8), (knowledge, 1))


def documents(seed: int, split: str = "train") -> Iterator[str]:
    """Endless documents; the same seed gives the same text."""
    rng = Random(seed)
    makers, weights = zip(*MIX, strict=True)
    while True:
        yield rng.choices(makers, weights)[0](rng, split)
