"""Stores: products and other facts with their values, and the system prompts that state them in many layouts."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from names import Names, sentence_case, title

#: How an answer places a product, by the unit of the store's locations.
PREPOSITION = {"aisle": "in", "shelf": "on", "row": "in", "bay": "in", "section": "in", "rack": "on", "location": "at"}

DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
LONG_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@dataclass
class Product:
    name: str
    price: str | None
    code: str | None  #: where it is, without the unit: "4", "B12", "7 shelf 2"
    stock: int | None


@dataclass
class Store:
    title: str
    unit: str
    products: list[Product]
    facts: dict[str, str]  #: topic ("hours", "wifi", …) to value
    names: Names = field(repr=False)
    taken: set[str] = field(default_factory=set, repr=False)

    def absent(self, single: float = 0.0) -> str:
        """The name of a product the store does not have, often sharing a word with one that it has; so often cut to one of
        its words.
        """
        while True:
            name = self.names.product()
            if single and self.names.rng.random() < single:
                name = self.names.word_of(name)
            if self.products and self.names.rng.random() < 0.4:
                words, other = name.split(), self.names.rng.choice(self.products).name.lower().split()
                if len(other) > 1 and len(words) > 1:
                    if self.names.rng.random() < 0.7:
                        words[-1] = other[-1]
                    else:
                        words[0] = other[0]
                    name = " ".join(words)
            if all(not overlaps(name, p.name) for p in self.products):
                return name


def overlaps(name: str, other: str) -> bool:
    """Whether one name's words are among the other's: such a question could mean that product."""
    a, b = ({w.rstrip("s") for w in n.lower().split()} for n in (name, other))
    return a <= b or b <= a


Money = Callable[[random.Random], str]


def amount(rng: random.Random, digits: int = 2, point: str = ".") -> str:
    whole = rng.choice((rng.randint(0, 9), rng.randint(1, 30), rng.randint(1, 99), rng.randint(100, 1499)))
    if digits == 0:
        return str(max(whole, 1) * rng.choice((1, 1, 10)))
    cents = rng.choice(("99", "49", "50", "00", "95", "25", "75", *([f"{rng.randint(0, 99):02d}"] * 9)))
    return f"{whole}{point}{cents}"


#: One currency format a store; the plain dollar is the likeliest.
MONEY: list[tuple[int, Money]] = [
    (10, lambda r: "$" + amount(r)),
    (3, lambda r: amount(r)),
    (2, lambda r: "$" + amount(r, r.choice((0, 2, 2)))),
    (3, lambda r: "€" + amount(r)),
    (2, lambda r: amount(r, point=",") + " €"),
    (1, lambda r: amount(r, point=",") + "€"),
    (3, lambda r: "£" + amount(r)),
    (1, lambda r: amount(r) + " USD"),
    (1, lambda r: "USD " + amount(r)),
    (1, lambda r: amount(r) + " EUR"),
    (1, lambda r: "CHF " + amount(r)),
    (1, lambda r: "¥" + amount(r, 0)),
    (1, lambda r: "₹" + amount(r, 0)),
    (1, lambda r: amount(r, 0) + " kr"),
    (1, lambda r: "R$ " + amount(r, point=",")),
    (1, lambda r: "$ " + amount(r)),
    (1, lambda r: amount(r) + " dollars"),
    (1, lambda r: amount(r) + " euros"),
    (1, lambda r: str(r.randint(5, 99)) + " cents"),
]

CODES: list[tuple[int, Callable[[random.Random], str]]] = [
    (8, lambda r: str(r.randint(1, 20))),
    (3, lambda r: str(r.randint(1, 99))),
    (3, lambda r: r.choice("ABCDEFGH") + str(r.randint(1, 30))),
    (1, lambda r: str(r.randint(1, 20)) + r.choice("ABCDEF")),
    (1, lambda r: f"{r.randint(1, 30)} shelf {r.randint(1, 9)}"),
    (1, lambda r: f"{r.choice('ABCDEFGH')}-{r.randint(1, 30)}"),
    (1, lambda r: r.choice("ABCDEFGHJKLM")),
    (1, lambda r: f"{r.randint(1, 20)}, shelf {r.randint(1, 9)}"),
]


def clock(rng: random.Random, hour: int, style: int) -> str:
    minute = rng.choice((0, 0, 0, 30, 15, 45))
    if style == 0:
        return f"{hour}:{minute:02d}"
    if style == 1:
        return f"{hour:02d}:{minute:02d}"
    half = "am" if hour < 12 else "pm"
    hour = (hour - 1) % 12 + 1
    return f"{hour}:{minute:02d}{half}" if minute else f"{hour}{' ' if style == 3 else ''}{half}"


def hours(rng: random.Random) -> str:
    style = rng.randrange(4)
    join = rng.choice(("-", " - ", " to ", "–"))
    span = f"{clock(rng, rng.randint(5, 11), style)}{join}{clock(rng, rng.randint(13, 23), style)}"
    days = rng.choice((DAYS, LONG_DAYS))
    first, last = sorted(rng.sample(range(7), 2))
    kind = rng.random()
    if kind < 0.35:
        return span
    if kind < 0.5:
        return f"{span} {rng.choice(('daily', 'every day'))}"
    return f"{days[first]}{rng.choice(('-', ' to '))}{days[last]} {span}"


def password(names: Names) -> str:
    rng = names.rng
    word = rng.choice(
        (names.made_up(), names.letters(), names.word(), names.made_up() + rng.choice("-_.") + names.word())
    )
    return rng.choice((word, title(word), word.upper())) + rng.choice(
        ("", str(rng.randint(1, 9999)), str(rng.randint(1, 99)) + "!")
    )


def returns(rng: random.Random) -> str:
    span = f"{rng.choice((3, 5, 7, 10, 14, 15, 20, 21, 28, 30, 45, 60, 90, rng.randint(2, 120)))} days"
    return rng.choice(
        (
            f"within {span} with receipt",
            f"within {span}",
            f"{span} with the receipt",
            f"{span}",
            f"within {span}, unopened only",
            f"{span}, store credit only",
            f"up to {span} after purchase",
        )
    )


def promotion(names: Names) -> str:
    rng = names.rng
    thing = names.product()
    return rng.choice(
        (
            f"{rng.choice((5, 10, 15, 20, 25, 30, 40, 50, rng.randint(2, 80)))}% off {thing}",
            f"buy {rng.randint(1, 4)} get {rng.randint(1, 3)} free on {thing}",
            f"free {thing} with every {names.product()}",
            f"{rng.randint(2, 6)} {thing} for the price of {rng.randint(1, 3)}",
        )
    )


def address(names: Names) -> str:
    rng = names.rng
    street = title(names.word()) + rng.choice((" Street", " Road", " St", " Avenue", " Lane", " Square", "straße"))
    return f"{rng.randint(1, 240)} {street}" if rng.random() < 0.7 else f"{street} {rng.randint(1, 240)}"


def parking(rng: random.Random) -> str:
    time = f"{rng.randint(1, 4)} hours"
    where = rng.choice(("behind the store", "in front of the shop", "in the basement", "on the roof", "next door"))
    return rng.choice((f"free for {time}", f"free {where}", where, f"{where}, {time} free", "for customers only"))


def restroom(rng: random.Random) -> str:
    return rng.choice(
        ("at the back", "near the entrance", "upstairs", "on the first floor", "next to the checkout")
    ) + (rng.choice(("", "", ", ask for the key", f", code {rng.randint(1000, 9999)}")))


#: topic: (labels in the prompt, sentences in the prompt)
TOPICS: dict[str, tuple[list[str], list[str]]] = {
    "hours": (
        ["Opening hours", "Hours", "Open", "Store hours", "Business hours", "opening times"],
        ["We are open {v}.", "The store is open {v}.", "Opening hours are {v}.", "Our hours: {v}."],
    ),
    "wifi": (
        ["Wifi password", "WiFi password", "Wi-Fi password", "Guest wifi", "wifi", "Wi-Fi"],
        [
            "The wifi password is {v}.",
            "Guest Wi-Fi password: {v}.",
            "Customers can use the wifi with the password {v}.",
        ],
    ),
    "returns": (
        ["Returns", "Return policy", "Refunds", "returns policy", "Returns accepted"],
        ["Returns are accepted {v}.", "Return policy: {v}.", "Refunds: {v}.", "Customers can return items {v}."],
    ),
    "promotion": (
        ["Promotion", "Offer", "Today's offer", "Special offer", "Promotion today", "Deal of the day"],
        ["Today's promotion: {v}.", "This week: {v}.", "We have an offer: {v}.", "Special offer: {v}."],
    ),
    "phone": (["Phone", "Telephone", "Tel", "Call us"], ["Our phone number is {v}.", "Call us at {v}.", "Phone: {v}."]),
    "manager": (["Manager", "Store manager"], ["The manager is {v}.", "The store manager is called {v}."]),
    "address": (
        ["Address", "Our address", "Street address"],
        ["Our address is {v}.", "You find us at {v}.", "Address: {v}."],
    ),
    "parking": (["Parking", "Car park", "Customer parking"], ["Parking is {v}.", "Parking: {v}.", "Park {v}."]),
    "restroom": (
        ["Restroom", "Toilet", "Restrooms", "Customer toilet", "WC"],
        ["The restroom is {v}.", "The toilet is {v}.", "Restrooms: {v}."],
    ),
}


def make_facts(names: Names) -> dict[str, str]:
    rng = names.rng
    values = {
        "hours": lambda: hours(rng),
        "wifi": lambda: password(names),
        "returns": lambda: returns(rng),
        "promotion": lambda: promotion(names),
        "phone": lambda: (
            rng.choice(("", "+", "0")) + "-".join(str(rng.randint(10, 9999)) for _ in range(rng.randint(2, 4)))
        ),
        "manager": lambda: title(names.made_up() + rng.choice(("", " " + names.made_up()))),
        "address": lambda: address(names),
        "parking": lambda: parking(rng),
        "restroom": lambda: restroom(rng),
    }
    topics = rng.sample(list(values), rng.choice((0, 1, 2, 3, 4, 5, 7)))
    return {topic: values[topic]() for topic in topics}


def weighted(
    rng: random.Random, choices: list[tuple[int, Callable[[random.Random], str]]]
) -> Callable[[random.Random], str]:
    return rng.choices([c for _, c in choices], [w for w, _ in choices])[0]


#: How often the seventh of a store's eight ways to write names is capitals and not title case; in practice more often.
CAPITALS, PRACTISED_CAPITALS = 0.15, 0.5
#: How often a word of another product's name is tried as a name, by store, in practice.
PRACTISED_PARTING = (0.0, 0.1, 0.25)


def make_store(names: Names, count: int, practice: bool = False) -> Store:
    """So many products and some facts; to `practice` more stores that write names in capitals, and more names that are a
    word of another.
    """
    rng = names.rng
    money, code = weighted(rng, MONEY), weighted(rng, CODES)
    if rng.random() < 0.3:  # few places, with many products each
        places = [code(rng) for _ in range(rng.randint(2, 8))]
        code = lambda rng: rng.choice(places)  # noqa: E731
    unit = rng.choices(list(PREPOSITION), (16, 2, 1, 1, 1, 1, 1))[0]
    capitals = str.upper if rng.random() < (PRACTISED_CAPITALS if practice else CAPITALS) else title
    case = rng.choice((title, title, sentence_case, sentence_case, str, str, capitals, None))
    present = {f: rng.random() < p for f, p in (("price", 0.95), ("code", 0.88), ("stock", 0.72))}
    if not any(present.values()):
        present["price"] = True
    hole = rng.choice((0.0, 0.0, 0.1))

    def has(attribute: str) -> bool:
        return present[attribute] and rng.random() >= hole

    products = []
    for name in names.products(count, rng.choice(PRACTISED_PARTING) if practice else 0.0):
        style = case or rng.choice((title, sentence_case, str))
        price = money(rng) if has("price") else None
        place = code(rng) if has("code") else None
        stock = rng.choice((0, rng.randint(1, 30), rng.randint(1, 30), rng.randint(1, 500))) if has("stock") else None
        products.append(Product(style(name), price, place, stock))
    for p in products:  # a product without any fact would not be in the prompt
        if not p.price and not p.code and p.stock is None:
            p.price = money(rng)
    store_name = title(" ".join(names.word() for _ in range(rng.randint(1, 2)))) + rng.choice(
        ("", " Market", " Store", " Shop", " Café", " Mart", " Hardware", " Pharmacy")
    )
    return Store(store_name, unit, products, make_facts(names), names)
