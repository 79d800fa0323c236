"""The words of the world. Every list is ours; order matters, since the generator draws by position."""

from __future__ import annotations

WOMEN = (
    "Anna Eva Mary Lucy Sara Emma Nina Clara Julia Helen Rosa Alice Maya Ida Vera Olga Jane Ruth Kate Lena"
).split()
MEN = ("Tom Ben Paul Max Adam Karl Peter Oscar David Simon Frank Mark Leo Hugo Ivan Jack Sam Fred Luke Noah").split()
GENDERED = {"queen": "f", "aunt": "f", "girl": "f", "king": "m", "uncle": "m", "boy": "m"}
JOBS = (
    "doctor teacher farmer baker driver painter singer lawyer nurse pilot sailor writer cook guard judge clerk"
).split()

THINGS = (
    "cup box key lamp chair table bag coat hat shoe shirt drum bell book letter map clock knife spoon plate "
    "bottle basket ball kite rope ladder hammer pen mirror candle bread apple pear plum carrot onion"
).split()
COLOURS = "red blue green white black yellow".split()
ANIMALS = "dog cat horse cow goat sheep duck fox rabbit mouse".split()
KINDS = {
    "animal": ANIMALS,
    "fruit": ["apple", "pear", "plum"],
    "vegetable": ["carrot", "onion"],
    "garment": ["coat", "hat", "shoe", "shirt"],
    "tool": ["hammer", "ladder", "knife", "rope"],
    "toy": ["ball", "kite"],
}
PLACES = "garden kitchen park market library station school office forest museum harbour church hall barn".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBERS = "two three four five six seven eight nine ten".split()

# verb -> a verb of the same meaning ("" where the world has none)
BETWEEN_PEOPLE = {
    "help": "assist",
    "push": "shove",
    "call": "phone",
    "follow": "trail",
    "praise": "applaud",
    "blame": "accuse",
    "thank": "",
    "hug": "embrace",
    "save": "rescue",
    "watch": "observe",
    "teach": "instruct",
    "beat": "defeat",
    "chase": "pursue",
    "greet": "welcome",
    "scare": "frighten",
    "warn": "alert",
    "hurt": "injure",
    "admire": "respect",
    "visit": "",
    "choose": "select",
    "stop": "halt",
    "kick": "",
}
ON_THINGS = {
    "wash": "clean",
    "break": "smash",
    "paint": "",
    "hide": "conceal",
    "lose": "misplace",
    "carry": "",
    "drop": "",
    "fix": "repair",
    "steal": "",
    "throw": "toss",
    "move": "shift",
    "burn": "",
    "find": "discover",
    "bring": "fetch",
}
# giver's verb, its preposition-free synonym, taker's verb
TRANSFERS = {"give": ("hand", "get"), "sell": ("", "buy"), "lend": ("", "borrow"), "mail": ("send", "receive")}
IRREGULAR = {  # base: past, participle
    "teach": ("taught", "taught"),
    "beat": ("beat", "beaten"),
    "hurt": ("hurt", "hurt"),
    "choose": ("chose", "chosen"),
    "break": ("broke", "broken"),
    "hide": ("hid", "hidden"),
    "lose": ("lost", "lost"),
    "steal": ("stole", "stolen"),
    "throw": ("threw", "thrown"),
    "find": ("found", "found"),
    "bring": ("brought", "brought"),
    "give": ("gave", "given"),
    "get": ("got", "got"),
    "sell": ("sold", "sold"),
    "buy": ("bought", "bought"),
    "lend": ("lent", "lent"),
    "send": ("sent", "sent"),
    "sleep": ("slept", "slept"),
    "sing": ("sang", "sung"),
    "run": ("ran", "run"),
    "swim": ("swam", "swum"),
}
DOUBLED = {"hug", "stop", "drop"}
INTRANSITIVE = "sleep sing run swim dance laugh wait jump smile work".split()
STATES = "tired hungry happy angry busy calm cold proud quiet ready".split()

COMPARISONS = {  # adjective: comparative, opposite comparative, opposite adjective
    "tall": ("taller", "shorter", "short"),
    "old": ("older", "younger", "young"),
    "fast": ("faster", "slower", "slow"),
    "strong": ("stronger", "weaker", "weak"),
    "rich": ("richer", "poorer", "poor"),
    "loud": ("louder", "quieter", "quiet"),
}
RELATIONS = {  # preposition: its converse
    "above": "below",
    "in front of": "behind",
    "to the left of": "to the right of",
    "on": "under",
}

JUDGED = "film book song meal play show hotel trip party game story lesson concert cake speech plan".split()
ASPECTS = "start ending music food price room staff weather".split()
GOOD = (
    "good great lovely exciting clever charming pleasant perfect wonderful superb brilliant delightful fine nice "
    "splendid amusing"
).split()
BAD = (
    "bad awful boring dull stupid ugly unpleasant terrible horrible dreadful silly nasty tedious weak poor miserable"
).split()
LIKED = "liked loved enjoyed praised recommended".split()
DISLIKED = "disliked hated loathed mocked regretted".split()
