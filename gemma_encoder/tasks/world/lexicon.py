"""The words of the world. Every list is ours; order matters, since the generator draws by position."""

from __future__ import annotations

WOMEN = "Anna Eva Mary Lucy Sara Emma Nina Clara Julia Helen Rosa Alice".split()
MEN = "Tom Ben Paul Max Adam Karl Peter Oscar David Simon Frank Mark".split()
GENDERED = {"queen": "f", "aunt": "f", "girl": "f", "king": "m", "uncle": "m", "boy": "m"}
JOBS = "doctor teacher farmer baker driver singer lawyer nurse pilot sailor guard judge".split()

THINGS = (
    "cup box key lamp chair table bag coat hat shoe shirt drum bell book clock knife plate basket ball kite rope "
    "ladder hammer bread apple pear plum carrot"
).split()
COLOURS = "red blue green white black yellow".split()
ANIMALS = "dog cat horse cow goat sheep duck rabbit".split()
KINDS = {
    "animal": ANIMALS,
    "fruit": ["apple", "pear", "plum"],
    "vegetable": ["carrot"],
    "garment": ["coat", "hat", "shoe", "shirt"],
    "tool": ["hammer", "ladder", "knife", "rope"],
    "toy": ["ball", "kite"],
}
PLACES = "garden kitchen park market library station school office forest museum".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBERS = "two three four five six seven".split()

# verb -> a verb of the same meaning ("" where the world has none)
BETWEEN_PEOPLE = {
    "help": "assist",
    "push": "shove",
    "follow": "trail",
    "praise": "applaud",
    "blame": "accuse",
    "thank": "",
    "hug": "embrace",
    "save": "rescue",
    "teach": "instruct",
    "chase": "pursue",
    "greet": "welcome",
    "scare": "frighten",
    "warn": "alert",
    "hurt": "injure",
    "visit": "",
    "kick": "",
}
ON_THINGS = {
    "wash": "clean",
    "break": "smash",
    "hide": "conceal",
    "carry": "",
    "drop": "",
    "fix": "repair",
    "steal": "",
    "move": "shift",
    "find": "discover",
}
# giver's verb, its preposition-free synonym, taker's verb
TRANSFERS = {"give": ("hand", "get"), "sell": ("", "buy"), "lend": ("", "borrow"), "mail": ("send", "receive")}
IRREGULAR = {  # base: past, participle
    "teach": ("taught", "taught"),
    "hurt": ("hurt", "hurt"),
    "choose": ("chose", "chosen"),
    "break": ("broke", "broken"),
    "hide": ("hid", "hidden"),
    "steal": ("stole", "stolen"),
    "find": ("found", "found"),
    "give": ("gave", "given"),
    "get": ("got", "got"),
    "sell": ("sold", "sold"),
    "buy": ("bought", "bought"),
    "lend": ("lent", "lent"),
    "send": ("sent", "sent"),
}
DOUBLED = {"hug", "drop"}
INTRANSITIVE = "sleep sing run swim dance laugh wait jump smile work".split()
STATES = "tired hungry happy angry busy calm cold proud quiet ready".split()

COMPARISONS = {  # adjective: comparative, opposite comparative, opposite adjective
    "tall": ("taller", "shorter", "short"),
    "old": ("older", "younger", "young"),
    "fast": ("faster", "slower", "slow"),
    "strong": ("stronger", "weaker", "weak"),
    "rich": ("richer", "poorer", "poor"),
}
RELATIONS = {  # preposition: its converse
    "above": "below",
    "in front of": "behind",
    "to the left of": "to the right of",
    "on": "under",
}

JUDGED = "film book song meal play show hotel trip party game story lesson concert speech".split()
ASPECTS = "start ending music food price room staff weather".split()
GOOD = "good great lovely exciting clever charming pleasant perfect wonderful brilliant delightful fine".split()
BAD = "bad awful boring dull stupid ugly unpleasant terrible horrible dreadful silly tedious".split()
LIKED = "liked loved enjoyed praised recommended".split()
DISLIKED = "disliked hated loathed mocked regretted".split()
