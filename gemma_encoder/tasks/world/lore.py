"""Documents of the stream about opinions, habits, causes, reasons and words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from gemma_encoder.tasks.world import lexicon
from gemma_encoder.tasks.world.causes import CHAINS, chain, reason
from gemma_encoder.tasks.world.grammar import indefinite, people, sentence
from gemma_encoder.tasks.world.habits import habit, reflexive
from gemma_encoder.tasks.world.opinions import contrast, feeling, hope, opinion
from gemma_encoder.tasks.world.senses import SENSES, Use, two_uses, use


def view(rng: Random, split: str) -> str:
    """An opinion with its reason, its consequence, and questions."""
    positive, who = rng.random() < 0.5, people(rng, 1)[0].text
    style = rng.choice((0, 0, 0, 1, 2))
    if style == 0:
        verdict = opinion(rng, split, positive, lexicon.JUDGED)
        first = rng.choice(verdict.forms(who if rng.random() < 0.5 else ""))
        out = (
            first,
            f"{first}, so {feeling(rng, positive, 'it', who)}",
            f"{feeling(rng, positive, f'the {verdict.judged}', who)} because {first}",
        )
        told = sentence(rng.choice(out))
    else:
        told = sentence((contrast if style == 1 else hope)(rng, split, positive))
    mood = "good" if positive else "bad"
    ends = (
        f"So it was {mood}.",
        f"Was it good? {'Yes' if positive else 'No'}.",
        f"Was it bad? {'No' if positive else 'Yes'}.",
        sentence(f"so {feeling(rng, positive, 'it', who)}"),
        f"In the end {who} was {'happy' if positive else 'not happy'}.",
    )
    return " ".join([told, *rng.sample(ends, 3)])


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


def chained(rng: Random, split: str) -> str:
    """Cause, event and effect of one person, or who of two it was."""
    one = chain(rng, split)
    if rng.random() < 0.5:
        two = chain(rng, split, avoid=(one,))
        link = rng.randrange(3)
        told = [made.say(rng, link) for made in rng.sample((one, two), 2)]
        out = [sentence(" and ".join(told))]
        for made in rng.sample((one, two), 2):
            other = rng.choice([step for step in range(3) if step != link])
            out += [sentence(made.say(rng, other, "who"), "?"), sentence(made.who.text)]
        return " ".join(out)
    link = rng.randrange(2)
    before, after = one.say(rng, link), one.say(rng, link + 1)
    joined = rng.choice(
        (
            f"{before}, so {after}",
            f"{after} because {before}",
            f"{before}. The effect: {after}",
            f"{after}. The cause: {before}",
        )
    )
    if rng.random() < 0.5:
        strange = rng.choice([number for number in range(len(CHAINS)) if number != one.number])
        clause = f"{one.who.text} {rng.choice(CHAINS[strange][rng.randrange(3)])}"
        return f"{sentence(joined)} {sentence(clause)} That has nothing to do with it."
    return sentence(joined)


def _stressed(rng: Random, clause: str, word: str) -> str:
    """The clause, half of the time with asterisks around the word it is about, as a task may mark it."""
    return re.sub(rf"\b{re.escape(word)}\b", f"*{word}*", clause, count=1) if rng.random() < 0.5 else clause


def because(rng: Random, split: str) -> str:
    """A deed with its reason, and whom the pronoun means."""
    made = reason(rng, split, same_gender=0.8)
    told = sentence(_stressed(rng, rng.choice(made.forms()), made.meant.subject))
    who = f"{sentence(f'who {made.why}', '?')} {sentence(made.meant.text)}"
    said = f"By {made.meant.subject} {made.meant.text} is meant, not {made.rival.text}."
    return " ".join([told, *rng.sample((who, said), rng.choice((1, 2)))])


def senses(rng: Random, split: str) -> str:
    """A word twice, in one meaning or in two."""
    alike = rng.random() < 0.5
    first, second = two_uses(rng, split, alike)
    out = []
    for made in (first, second):
        out += [sentence(_stressed(rng, made.clause, made.word)), f"Here the {made.word} is {made.gloss}."]
    if rng.random() < 0.5:
        out = out[::2]
    verdict = "the same meaning" if alike else "another meaning"
    return " ".join([*out, f"It is {verdict} of {first.word}."])


def meant(rng: Random, split: str) -> str:
    """A deed with its reason, and of each of the two whether the pronoun means her or him."""
    made = reason(rng, split, same_gender=0.8)
    pronoun = made.meant.subject
    out = [sentence(_stressed(rng, rng.choice(made.forms()), pronoun))]
    for noun in rng.sample((made.meant, made.rival), 2):
        shape = rng.choice((f"is {noun.text} meant by {pronoun}", f"by {pronoun}, is {noun.text} meant"))
        out += [sentence(shape, "?"), "Yes." if noun == made.meant else "No."]
    return " ".join(out)


def twofold(rng: Random, split: str) -> str:
    """A word in two sentences, and then whether it means the same in both, and what it means in each."""
    alike = rng.random() < 0.5
    uses = two_uses(rng, split, alike)
    glosses = [gloss for gloss, _ in SENSES[uses[0].word]]
    asked = [(f"has {uses[0].word} the same meaning in both", alike)]
    for place, made in zip(("first", "second"), uses, strict=True):
        guess = rng.choice(glosses)
        asked.append((f"is the {place} {made.word} {guess}", guess == made.gloss))
    out = [sentence(_stressed(rng, made.clause, made.word)) for made in uses]
    for question, right in rng.sample(asked, 3):
        out += [sentence(question, "?"), "Yes." if right else "No."]
    return " ".join(out)


def _in_turn(rng: Random, split: str, word: str, lengths: tuple[int, ...]) -> Iterator[tuple[str, Use, bool | None]]:
    """A word in sentence after sentence: as told, the use, and whether it means the same as in the one before."""
    uses: list[Use] = []
    for _ in range(rng.choice(lengths)):
        while (made := use(rng, split, word, rng.randrange(2))) in uses:
            pass
        uses.append(made)
        same = uses[-2].sense == made.sense if len(uses) > 1 else None
        yield sentence(_stressed(rng, made.clause, word)), made, same


def compared(rng: Random, split: str) -> str:
    """A word in sentence after sentence, and whether it means the same as in the one before."""
    word, glossed, out = rng.choice(list(SENSES)), rng.random() < 0.25, []
    for told, made, same in _in_turn(rng, split, word, (3, 4, 5)):
        out.append(told)
        if glossed:
            out.append(f"Here the {word} is {made.gloss}.")
        if same is not None:
            out.append(f"That is {'the same' if same else 'another'} {word}.")
    return " ".join(out)


def pronoun(rng: Random, split: str) -> str:
    """A deed with its reason, and of several people, strangers to it too, whether the pronoun means them."""
    made = reason(rng, split, same_gender=0.8)
    she, who = made.meant.subject, f"who {made.why}"
    out = [sentence(_stressed(rng, rng.choice(made.forms()), she))]
    if rng.random() < 0.35:
        out.append(
            rng.choice((f"{sentence(who, '?')} {sentence(made.meant.text)}", f"By {she} {made.meant.text} is meant."))
        )
    stranger = next(noun for noun in people(rng, 3) if noun.text not in (made.meant.text, made.rival.text))
    for noun in rng.choices((made.meant, made.rival, stranger), (36, 36, 28), k=rng.choice((2, 3, 4))):
        question = rng.choice((f"is {noun.text} meant by {she}", f"{who}, {noun.text}", f"is {she} {noun.text}"))
        out += [sentence(question, "?"), "Yes." if noun == made.meant else "No."]
    return " ".join(out)


def word_judged(rng: Random, split: str) -> str:
    """As `compared`, but most verdicts follow the word itself: a state that knows them stands at the word."""
    word, out = rng.choice(list(SENSES)), []
    for told, _, same in _in_turn(rng, split, word, (2, 2, 3, 4)):
        out.append(told)
        if same is not None:
            at_the_word = f"The word {word} {'agrees' if same else 'differs'}."
            out.append(at_the_word if rng.random() < 0.75 else f"That is {'the same' if same else 'another'} {word}.")
    return " ".join(out)


def pronoun_judged(rng: Random, split: str) -> str:
    """As `pronoun`, but the verdict follows the name itself: a state that knows it stands at the name."""
    made = reason(rng, split, same_gender=0.8)
    she = made.meant.subject
    stranger = next(noun for noun in people(rng, 3) if noun.text not in (made.meant.text, made.rival.text))
    nouns = rng.sample((made.meant, made.rival, stranger), rng.choice((1, 2, 3)))
    start = rng.choice((f"meant by {she}", she, f"{she} means", "named"))
    told = ", ".join(f"{noun.text} {'yes' if noun == made.meant else 'no'}" for noun in nouns)
    return f"{sentence(_stressed(rng, rng.choice(made.forms()), she))} {sentence(f'{start}: {told}')}"


def knowledge(rng: Random, split: str) -> str:
    """Words of one meaning, good words and bad, kinds of things. The same in every split: language, not content."""
    topic = rng.randrange(3)
    if topic == 0:
        mood = rng.choice(("good", "bad"))
        word = rng.choice((lexicon.GOOD if mood == "good" else lexicon.BAD)[1:])
        return rng.choice((f"What is {word} is {mood}.", f"Something {word} is something {mood}."))
    if topic == 1:
        verb, same = rng.choice([pair for pair in (lexicon.BETWEEN_PEOPLE | lexicon.ON_THINGS).items() if pair[1]])
        return rng.choice((f"To {verb} is to {same}.", f"To {same} is to {verb}."))
    kind, other = rng.sample(list(lexicon.KINDS), 2)
    word = rng.choice(lexicon.KINDS[kind])
    told = f"{sentence(indefinite(word))[:-1]} is {indefinite(kind)} and not {indefinite(other)}."
    return f"{told} Is {indefinite(word)} {indefinite(kind)}? Yes. Is {indefinite(word)} {indefinite(other)}? No."
