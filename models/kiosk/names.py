"""Open product names: real words, made-up syllables and random letters, so that copying is learnt and not a list.

Every word, syllable and pattern belongs to exactly one side of the split (`held_out`), by a checksum of its
spelling, so that no evaluation name shares a content word with training.
"""

import random
import zlib
from functools import cache

MODIFIERS = tuple(
    """organic fresh frozen dried roasted smoked salted unsalted sweet sour spicy mild whole skimmed
sparkling still instant ground crunchy creamy classic premium family mini jumbo large small light dark white brown
red green blue black yellow golden silver pink purple wild raw pure plain natural soft hard heavy duty cordless
electric portable folding stainless steel wooden plastic cotton leather rubber ceramic paper glass copper brass
garden kitchen bathroom travel pocket baby kids adult double triple single extra strong long short round square
flat waterproof wireless rechargeable disposable herbal vegan gluten-free low-fat sugar-free decaf iced hot
vanilla chocolate caramel hazelnut almond oat soy coconut rice corn wheat rye barley maple honey lemon lime orange
apple pear peach plum cherry strawberry raspberry blueberry blackberry cranberry mango banana pineapple kiwi melon
grape fig date apricot ginger garlic onion pepper paprika basil mint thyme rosemary sage cumin turmeric cinnamon
chili tomato potato carrot spinach mushroom pumpkin cucumber cabbage celery avocado olive beef pork chicken turkey
lamb duck salmon tuna shrimp cod cheddar mozzarella parmesan goat""".split()
)

NOUNS = tuple(
    """milk bread butter cheese yogurt cream eggs flour sugar salt pasta noodles spaghetti rice beans lentils
soup sauce ketchup mustard mayonnaise vinegar oil jam marmalade spread cereal muesli granola oats porridge cookies
crackers chips popcorn pretzels nuts raisins candy gum lollipop chocolate cake muffin croissant bagel donut brownie
pie tart sandwich wrap burger pizza salad sausage ham bacon steak fillet burrito dumplings tofu hummus juice cola
lemonade soda water tea coffee espresso latte cappuccino mocha smoothie cocoa beer wine cider milkshake syrup
soap shampoo conditioner lotion toothpaste toothbrush floss mouthwash razor blades deodorant perfume tissues wipes
diapers towels napkins sponge detergent bleach softener cleaner polish brush broom mop bucket gloves bags foil
candles matches lighter batteries charger cable adapter bulb lamp torch flashlight extension socket plug fuse
hammer screwdriver wrench pliers saw drill chisel file nails screws bolts nuts washers hinges hooks bracket ladder
tape glue paint roller varnish primer sandpaper putty sealant hose sprinkler shovel rake spade shears trowel
wheelbarrow seeds soil fertilizer pot planter mower trimmer chainsaw rope chain padlock key keyring doormat curtain
pillow blanket sheets mattress mug cup plate bowl fork spoon knife pan kettle toaster blender grinder scale timer
thermometer aspirin ibuprofen paracetamol vitamins bandage plasters gauze ointment drops spray inhaler mask
sanitizer sunscreen balm lozenges antacid tablets capsules syringe pen pencil eraser ruler notebook envelope
stapler scissors marker crayons folder binder calculator backpack umbrella wallet belt socks shirt jacket scarf
hat cap sandals boots slippers shoelaces puzzle ball doll kite cards dice book magazine newspaper map postcard
stickers ribbon balloon gift toy car bike helmet pump tyre tent lantern cooler charcoal grill skewers kibble
litter leash collar bone treats aquarium filter""".split()
)

#: For evaluation only: words of EFF's long list (CC BY 3.0) on that side of the split.
EVALUATION_WORDS = tuple(
    """acquire acre agile aids amplify anger announcer anything askew astride attention backstage bacteria blinked
boastful brewery budding buffer bunny cause charbroil childlike colonize coming composure conductor correct
cried cruelly crunching curator curliness cusp cytoplast deflator delicate delirious delouse democracy
deploy depravity diameter dilation diligent dirtiness disagree dismount donated dotted dove dreadlock droop
dugout duller duplicate earthy effective electable embassy entrench enunciate envy evade evasive exfoliate
exporter expulsion ferment filling finale flop fossil freefall frolic garment gauze gentleman gently giant
gleeful glider glitter glorifier goes grazing grievous guidable gusto guzzler hangout headache heave hedge
humongous hypnotic iron judicial justness kettle kindle legwork lifter limb linoleum margin mauve modify
modular moonscape mousy mutable national nullify obscure ocelot octagon oncoming oops outbreak outmatch
oxidizing paramedic patchy paycheck plausible plod plural preppy progress prompter puzzling railcar ramble
ranting rejoicing reputable resample revolt ripening salt scabbed scaling scared scorer seizing shiny shock
shower silver slogan slurp snaking snap snore snowiness snowplow spent spirits squeeze squiggly starlit
steerable stipend stoop strike stubborn stunned stylus subarctic suds supervise surfer symphony synopses
tackiness tactics talisman tall tanned tannery tantrum tapered tartly thesis thong thumb tighten tilt timid
trickster umpire unaudited uncapped uncorrupt undivided unfounded unlinked unlit unneeded unquote unreal
unselect unstamped unweave upright vanish varying versus violator volumes walk wannabe wiry yarn yearning""".split()
)

ONSETS = """b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sn sp st str t tr
v vl w x y z zh""".split()
NUCLEI = "a e i o u ai ea ee ie oa oo ou y".split()
CODAS = ["", "l", "n", "r", "s", "t", "x", "m", "ck", "nd", "rk", "lt", "st", "th", "v", "z", "p", "g"]
SYLLABLES = tuple(o + n + c for o in ONSETS for n in NUCLEI for c in CODAS)
SIZES = [
    "{n}-pack",
    "{n} pack",
    "{n}L",
    "{n}g",
    "{n}0g",
    "{n} kg",
    "{n}ml",
    "{n}oz",
    "size {n}",
    "No. {n}",
    "{n}mm",
    "{n}W",
    "M{n}",
    "x{n}",
]


def held_out(word: str) -> bool:
    """Whether a word or syllable is kept for evaluation only (about one in seven)."""
    return zlib.crc32(word.lower().encode()) % 7 == 3


def few(rng: random.Random, most: int) -> int:
    """A number of words from 4 to `most`: small ones as likely as large ones."""
    return int(4 * (max(4, most) / 4) ** rng.random())


@cache
def side(words: tuple[str, ...], evaluation: bool) -> list[str]:
    return [w for w in words if held_out(w) == evaluation]


def kept_words() -> list[str]:
    """The words of evaluation's names, which training never says."""
    return side((*MODIFIERS, *NOUNS, *EVALUATION_WORDS), True)


class Names:
    """Draws product names from one side of the split.

    For training every store has words of its own: often few, so that its products share them, and often strange ones,
    so that a word is read from the prompt and not completed from memory. Evaluation has few words as it is.
    """

    def __init__(self, rng: random.Random, evaluation: bool, extra_words: tuple[str, ...] = ()) -> None:
        self.rng = rng
        self.modifiers = side(MODIFIERS, evaluation)
        self.nouns = side(NOUNS, evaluation)
        self.words = side(extra_words or EVALUATION_WORDS, evaluation) or self.modifiers + self.nouns
        self.syllables = side(SYLLABLES, evaluation)
        self.sharing = 0.35
        if not evaluation:
            self.known = self.words
            strange = rng.choice((0.0, 0.2, 0.5, 0.8))
            self.modifiers, self.nouns = self.own(self.modifiers, strange), self.own(self.nouns, strange)
            self.words = self.own(self.words, strange)
            self.syllables = rng.sample(self.syllables, 5 * few(rng, len(self.syllables) // 5))
            self.sharing = rng.choice((0.15, 0.35, 0.6))

    def own(self, words: list[str], strange: float) -> list[str]:
        """One store's share of a list, some of it replaced by strange words."""
        chosen = self.rng.sample(words, few(self.rng, min(400, len(words))))
        return [self.strange() if self.rng.random() < strange else word for word in chosen]

    def strange(self) -> str:
        """A word that nobody knows but looks like one: the halves of two, or one with a letter changed."""
        rng = self.rng
        while True:
            a, b = rng.choice(self.known), rng.choice(self.known)
            if rng.random() < 0.6:
                word = a[: rng.randint(1, len(a) - 1)] + b[rng.randint(1, len(b) - 1) :]
            else:
                at = rng.randrange(len(a))
                letter = rng.choice(("", a[at] * 2, *"abcdefghiklmnoprstuvwyz"))
                word = a[:at] + letter + a[at + 1 :]
            if 3 <= len(word) <= 12 and not held_out(word):
                return word

    def made_up(self) -> str:
        """A pronounceable word nobody has seen, of open syllables first: Zorvex, Quinlo."""
        return "".join(self.rng.choice(self.syllables) for _ in range(self.rng.choice((1, 2, 2, 2, 3))))[:12]

    def letters(self) -> str:
        """A code-like word without any pattern: xkqv, B7T2."""
        alphabet = "abcdefghijklmnopqrstuvwxyz" + ("0123456789" if self.rng.random() < 0.3 else "")
        return "".join(self.rng.choice(alphabet) for _ in range(self.rng.randint(2, 6)))

    def word(self) -> str:
        kind = self.rng.random()
        if kind < 0.45:
            return self.rng.choice(self.words)
        if kind < 0.65:
            return self.rng.choice(self.modifiers)
        if kind < 0.92:
            return self.made_up()
        return self.letters()

    def product(self) -> str:
        """A lower-case product name of one to four words."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.12:
            words = [rng.choice(self.nouns)]
        elif kind < 0.42:
            words = [rng.choice(self.modifiers), rng.choice(self.nouns)]
        elif kind < 0.52:
            words = [self.word(), rng.choice(self.modifiers), rng.choice(self.nouns)]
        elif kind < 0.72:
            words = [self.word(), rng.choice(self.nouns)]
        elif kind < 0.82:
            words = [self.word()]
        elif kind < 0.94:
            words = [self.word(), self.word()]
        else:
            words = [self.word(), self.word(), self.word(), rng.choice(self.nouns)][: rng.choice((3, 4))]
        if rng.random() < 0.05:
            words.append(rng.choice(SIZES).format(n=rng.randint(1, 24)))
        if rng.random() < 0.03:
            words.insert(1, rng.choice(("&", "and", "with", "of")))
            words.append(rng.choice(self.nouns))
        return " ".join(words)

    def word_of(self, name: str) -> str:
        """One word of a name, but no size and none that only joins others."""
        words = [w for w in name.split() if w.isalpha() and len(w) > 2 and w not in ("and", "with", "size", "pack")]
        return self.rng.choice(words or [name])

    def products(self, count: int, parting: float = 0.0) -> list[str]:
        """Distinct names; some share a word on purpose, so that one matching word is not enough; so often a word of another
        one, before or behind that, is tried as a name.
        """
        names: list[str] = []
        while len(names) < count:
            name = self.product()
            if names and self.rng.random() < self.sharing:
                other = self.rng.choice(names).split()
                words = name.split()
                if self.rng.random() < 0.6:
                    words[-1] = other[-1]
                else:
                    words[0] = other[0]
                name = " ".join(words)
            place = len(names)
            if names and parting and self.rng.random() < parting:
                name, place = self.word_of(self.rng.choice(names)), self.rng.randint(0, place)
            if name.lower() not in (n.lower() for n in names):
                names.insert(place, name)
        return names


def title(name: str) -> str:
    """Title case that leaves digits and inner capitals alone."""
    return " ".join(w[:1].upper() + w[1:] for w in name.split(" "))


def sentence_case(name: str) -> str:
    return name[:1].upper() + name[1:]


def other_number(name: str) -> str:
    """The plural of a singular name and the other way round, well enough for a question."""
    if name.endswith("ss") or not name[-1:].isalpha():
        return name
    if name.endswith("s"):
        return name[:-1]
    return name + ("es" if name.endswith(("x", "sh", "ch", "o")) else "s")
