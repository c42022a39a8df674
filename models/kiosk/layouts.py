"""The system prompts that state a store's facts: bullets, sentences, `key: value`, tables, CSV, JSON, by aisle."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from store import PREPOSITION, TOPICS, Product, Store


@dataclass(frozen=True)
class Lesson:
    """What a reader should know when it reads a part of a prompt: training asks for it there (`lenses.py`)."""

    start: int  #: characters of the prompt
    end: int
    kind: str  #: "place": under which place it stands; "column": what its column is about
    text: str


#: A lesson on its way through a layout: kind, text and the part of the prompt between private characters.
LESSON = re.compile("\ue000(.*?)\ue001(.*?)\ue002(.*?)\ue003", re.DOTALL)


def taught(kind: str, text: str, part: str) -> str:
    return f"\ue000{kind}\ue001{text}\ue002{part}\ue003"


def without_lessons(prompt: str) -> tuple[str, list[Lesson]]:
    """The prompt as it is meant to be read, and its lessons."""
    clean, at, lessons = "", 0, []
    for found in LESSON.finditer(prompt):
        clean += prompt[at : found.start()]
        kind, text, part = found.groups()
        lessons.append(Lesson(len(clean), len(clean) + len(part), kind, text))
        clean, at = clean + part, found.end()
    return clean + prompt[at:], lessons


OPENINGS = [
    "You are the assistant of {s}.",
    "You are the store assistant of {s}. Answer briefly.",
    "You are a helpful shop assistant for {s}. Use only the facts below.",
    "{s}",
    "Store: {s}",
    "# {s}",
    "You answer customers' questions in one short sentence.",
    "You are a kiosk in {s}.",
    "You are a helpful assistant.",
    "You are the voice of {s}. If you do not know something, say so.",
    "Welcome to {s}!",
    "",
    "",
    "You help customers of {s} find products.",
    "Answer questions about {s}.",
    "You work at {s}.",
    "You are a store assistant. Answer in one sentence with facts from the list.",
    "Information about {s}:",
    "You're the friendly in-store assistant at {s}; be short and exact.",
    "Act as the assistant of a shop called {s}.",
    "You are a polite kiosk assistant at {s}. Reply in one sentence. Never invent anything.",
    "System: store assistant for {s}\nRules: short answers, no guessing.",
    "You are an in-store assistant. You know the following facts and nothing else.",
    "This is the information desk of {s}.",
    "Below is everything that {s} sells today.",
]
#: Instructions after the facts.
CLOSINGS = [
    "Answer in one sentence.",
    "If the answer is not above, say that you don't know.",
    "Do not make up prices.",
    "Be brief and friendly.",
    "Use a tool when a fact is missing.",
    "Customers ask by voice, so keep it short.",
    "Only use the facts above.",
]
LIST_TITLES = [
    "Products:",
    "Our products:",
    "Price list",
    "Inventory:",
    "Items:",
    "## Products",
    "Products and prices:",
    "Stock list:",
    "Here is what we sell:",
    "Catalog:",
    "Facts:",
    "",
    "",
    "Menu:",
    "Assortment:",
    "Store facts:",
    "[products]",
]
FACT_TITLES = ["Store info:", "Information:", "About us:", "## Info", "General:", "", "", "", "Good to know:"]


def bullet_style(rng: random.Random, unit: str) -> Callable[[Product], str]:
    """One line a product, its fields in one order with one set of labels and separators for the whole store."""
    after_name = rng.choice((": ", ": ", ": ", " - ", ", ", " – ", " | ", " ", "; ", " = ", " — "))
    separator = rng.choice((", ", ", ", ", ", " | ", " - ", "; ", " / ", ". "))
    price = rng.choice(
        ("{v}", "{v}", "{v}", "price {v}", "price: {v}", "costs {v}", "at {v}", "Price {v}", "{v} each", "price={v}")
    )
    code = rng.choice(
        ("{u} {v}", "{u} {v}", "{u} {v}", "{U} {v}", "in {u} {v}", "{u}: {v}", "{U}: {v}", "({u} {v})", "{u}={v}")
    )
    stock = rng.choice(
        (
            "{v} in stock",
            "{v} in stock",
            "stock {v}",
            "stock: {v}",
            "qty {v}",
            "{v} left",
            "in stock: {v}",
            "{v} available",
            "Stock: {v}",
        )
    )
    sold_out = rng.choice((None, "out of stock", "sold out", "none left"))
    order = rng.choice(("pcs", "pcs", "pcs", "cps", "psc", "spc", "csp"))
    if rng.random() < 0.1:
        code = "[{u} {v}]"
    unasked = rng.choice(("sku {v}", "#{v}", "art. {v}", "{v} g", "rated {v}")) if rng.random() < 0.08 else None

    def line(p: Product) -> str:
        fields = []
        for f in order:
            if f == "p" and p.price:
                fields.append(price.format(v=p.price))
            elif f == "c" and p.code:
                fields.append(code.format(v=p.code, u=unit, U=unit.capitalize()))
            elif f == "s" and p.stock is not None:
                fields.append(sold_out if sold_out and p.stock == 0 else stock.format(v=p.stock))
        if unasked:
            fields.append(unasked.format(v=rng.randint(1, 9999)))
        return p.name + after_name + separator.join(fields)

    return line


def bullets(rng: random.Random, store: Store) -> str:
    line = bullet_style(rng, store.unit)
    mark = rng.choice(("- ", "- ", "- ", "* ", "• ", "", "", "{n}. ", "{n}) "))
    end = rng.choice(("", "", "", ".", ";"))
    return "\n".join(mark.replace("{n}", str(n)) + line(p) + end for n, p in enumerate(store.products, 1))


def inline(rng: random.Random, store: Store) -> str:
    """Every product in one paragraph."""
    line = bullet_style(rng, store.unit)
    return rng.choice((". ", "; ", " | ", " / ")).join(line(p) for p in store.products) + "."


def sentence(rng: random.Random, store: Store, p: Product) -> str:
    place = f"{PREPOSITION[store.unit]} {store.unit} {p.code}"
    the = rng.choice(("The ", "The ", "", "Our "))
    stock = rng.choice(
        (f"We have {p.stock} in stock.", f"There are {p.stock} left.", f"{p.stock} in stock.", f"Stock: {p.stock}.")
    )
    if p.stock == 0:
        stock = rng.choice(("It is out of stock.", "It is sold out.", "We have 0 in stock."))
    tail = "" if p.stock is None else " " + stock
    if p.price and p.code:
        text = rng.choice(
            (
                f"{the}{p.name} costs {p.price} and is {place}.",
                f"{the}{p.name} costs {p.price} and is {place}.",
                f"{the}{p.name} is {place} and costs {p.price}.",
                f"{p.name} sells for {p.price}; find it {place}.",
                f"You find {p.name} {place} for {p.price}.",
                f"{store.unit.capitalize()} {p.code} has {p.name} for {p.price}.",
                f"The price of {p.name} is {p.price}. It is {place}.",
                f"{p.name} ({p.price}) is {place}.",
                f"{the}{p.name} cost {p.price} and are {place}.",
                f"{the}{p.name} is {p.price}, {place}.",
                f"{p.name} are {p.price} {place}.",
                f"{the}{p.name} is {p.price} and {place}.",
                f"{p.name} cost {p.price}, {place}.",
                f"Buy {p.name} for {p.price}, {place}.",
                f"We sell {p.name} for {p.price} {place}.",
            )
        )
    elif p.price:
        text = rng.choice(
            (
                f"{the}{p.name} costs {p.price}.",
                f"{p.name} is {p.price}.",
                f"{p.name} cost {p.price}.",
                f"The price of {p.name} is {p.price}.",
                f"We sell {p.name} for {p.price}.",
            )
        )
    elif p.code:
        text = rng.choice(
            (
                f"{the}{p.name} is {place}.",
                f"You find {p.name} {place}.",
                f"{store.unit.capitalize()} {p.code} has {p.name}.",
            )
        )
    else:
        return f"We have {p.stock} {p.name} in stock." if p.stock else f"{the}{p.name} is out of stock."
    return text + tail


def sentences(rng: random.Random, store: Store) -> str:
    if rng.random() < 0.5:  # the same words for every product
        seed = rng.random()
        lines = [sentence(random.Random(seed), store, p) for p in store.products]
    else:
        lines = [sentence(rng, store, p) for p in store.products]
    return rng.choice((" ", "\n", "\n- ")).join(lines)


UNASKED_NUMBERS = [
    "id",
    "sku",
    "number",
    "rating",
    "minimum",
    "weight",
    "calories",
    "tax",
    "sold",
    "order",
    "max",
    "code",
]
UNASKED_WORDS = ["brand", "category", "supplier", "department", "kind", "color"]


class Column(NamedTuple):
    about: str
    header: str
    cell: Callable[[Product], str]

    def taught(self, p: Product) -> str:
        text = self.cell(p)
        return text if self.about == "product" else taught("column", self.about, text)


def columns(rng: random.Random, store: Store) -> list[Column]:
    """The columns of a table."""
    unit_in_cell = rng.random() < 0.3
    plain = (store.unit, store.unit, store.unit, f"{store.unit} number", f"{store.unit} no")
    header = rng.choice((store.unit, "location", "where", "place") if unit_in_cell else plain)
    empty = rng.choice(("", "-", "n/a"))
    fields: list[Column] = []
    if any(p.price for p in store.products):
        fields.append(Column("price", rng.choice(("price", "price", "cost", "unit price")), lambda p: p.price or empty))
    if any(p.code for p in store.products):
        fields.append(
            Column(
                "aisle",
                header,
                lambda p: empty if not p.code else f"{store.unit} {p.code}" if unit_in_cell else p.code,
            )
        )
    if any(p.stock is not None for p in store.products):
        fields.append(
            Column(
                "stock",
                rng.choice(("stock", "stock", "in stock", "qty", "quantity", "units", "on hand", "count", "available")),
                lambda p: empty if p.stock is None else str(p.stock),
            )
        )
    if rng.random() < 0.25:  # a column that nobody asks for
        low, high = rng.choice(((1, 99), (1, 20), (100, 99999)))
        words = rng.random() < 0.25
        other = {p.name: store.names.word() if words else str(rng.randint(low, high)) for p in store.products}
        header = rng.choice(UNASKED_WORDS if words else UNASKED_NUMBERS)
        fields.append(Column("number", header, lambda p: other[p.name]))
    if rng.random() < 0.6:
        rng.shuffle(fields)
    return [Column("product", rng.choice(("product", "name", "item", "article")), lambda p: p.name), *fields]


def table(rng: random.Random, store: Store) -> str:
    cols = columns(rng, store)
    style = rng.choice((str, str.capitalize, str.capitalize, str.upper))
    outer, rule = rng.random() < 0.5, rng.random() < 0.5
    head = rng.random() < 0.9 or not any(f"{store.unit} " in c.cell(p) for c in cols for p in store.products)

    def row(cells: list[str]) -> str:
        text = " | ".join(cells)
        return f"| {text} |" if outer else text

    rows = [row([style(c.header) for c in cols])] if head else []
    if head and rule:
        dashes = rng.choice(("---", "---", "------"))
        rows.append(row([dashes] * len(cols)) if outer or rng.random() < 0.5 else "|".join([dashes] * len(cols)))
    return "\n".join(rows + [row([c.taught(p) for c in cols]) for p in store.products])


def csv(rng: random.Random, store: Store) -> str:
    cols = columns(rng, store)
    comma = any("," in c.cell(p) for c in cols for p in store.products)
    separator = rng.choice((";", "\t", "; ")) if comma else rng.choice((",", ",", ", ", ";", "\t"))
    style = rng.choice((str, str.capitalize))
    return "\n".join(
        [separator.join(style(c.header) for c in cols)]
        + [separator.join(c.taught(p) for c in cols) for p in store.products]
    )


def json_objects(rng: random.Random, store: Store) -> list[dict[str, object]]:
    cols = columns(rng, store)
    bare = rng.random() < 0.3

    def value(text: str) -> object:
        return (
            int(text)
            if text.isdigit()
            else float(text)
            if bare and text.replace(".", "", 1).isdigit() and not text.endswith("0")
            else text
        )

    return [
        {c.header.replace(" ", "_"): value(c.cell(p)) for c in cols if c.cell(p) not in ("", "-", "n/a")}
        for p in store.products
    ]


SEPARATORS = [(", ", ": "), (", ", ": "), (",", ":")]


def json_text(rng: random.Random, store: Store) -> str:
    objects, separators, kind = json_objects(rng, store), rng.choice(SEPARATORS), rng.random()
    if kind < 0.2:  # names as keys
        named = {str(o.pop(next(iter(o)))): o for o in objects}
        return json.dumps(named, ensure_ascii=False, separators=separators, indent=rng.choice((None, None, 1)))
    if kind < 0.5:
        return json.dumps(objects, ensure_ascii=False, separators=separators)
    lines = [json.dumps(o, ensure_ascii=False, separators=separators) for o in objects]
    if kind < 0.8:
        return "\n".join(lines)
    return "[\n" + ",\n".join("  " + line for line in lines) + "\n]"


def json_store(rng: random.Random, store: Store) -> str:
    """Everything about a store in one object."""
    separators = rng.choice(SEPARATORS)
    facts = {rng.choice(TOPICS[topic][0]).lower().replace(" ", "_"): value for topic, value in store.facts.items()}
    products = {rng.choice(("products", "items", "catalog", "inventory")): json_objects(rng, store)}
    if rng.random() < 0.25:
        facts = {rng.choice(("store_info", "facts", "info")): facts}
    parts = rng.choice(({**facts, **products}, {**products, **facts}))
    if rng.random() < 0.5:
        parts = {rng.choice(("store", "name", "shop")): store.title, **parts}
    return json.dumps(parts, ensure_ascii=False, separators=separators)


def key_value(rng: random.Random, store: Store) -> str:
    """A small block of `key: value` lines for each product."""
    cols = columns(rng, store)
    style = rng.choice((str, str.capitalize, str.capitalize))
    assign = rng.choice((": ", ": ", "=", " = "))
    indent = rng.choice(("", "", "  ", "- "))
    heading = rng.random() < 0.4
    blocks = []
    for p in store.products:
        lines = [f"{style(c.header)}{assign}{c.cell(p)}" for c in cols if c.cell(p)]
        if heading:
            lines = [p.name + rng.choice(("", ":"))] + [indent + line for line in lines[1:]]
        blocks.append("\n".join(lines))
    return ("\n" if heading and rng.random() < 0.3 else "\n\n").join(blocks)


def by_aisle(rng: random.Random, store: Store) -> str:
    """Products listed under the place they are in."""
    line = bullet_style(rng, store.unit)
    mark = rng.choice(("- ", "* ", "  ", ""))
    heading = rng.choice(("{U} {c}:", "{U} {c}", "## {U} {c}", "In {u} {c}:"))
    groups: dict[str, list[Product]] = {"": []}  # first those without a place
    for p in store.products:
        groups.setdefault(p.code or "", []).append(p)
    parts = []
    for code, products in groups.items():
        if code:
            parts.append(heading.format(u=store.unit, U=store.unit.capitalize(), c=code))
        lines = [line(Product(p.name, p.price, None, p.stock)).rstrip(":;,|= -–—") for p in products]
        parts += [mark + taught("place", code, text) if code else mark + text for text in lines]
    return "\n".join(parts)


def by_attribute(rng: random.Random, store: Store) -> str:
    """One list of prices and another of places."""
    bind = rng.choice((" ", ": ", " = ", " - "))
    join = rng.choice((", ", "; ", "\n", "\n- "))
    parts = []
    for heading, cells in (
        (rng.choice(("Prices:", "Price list:", "Our prices:")), [(p.name, p.price) for p in store.products if p.price]),
        (
            f"{store.unit.capitalize()}s:",
            [(p.name, p.code if bind == ": " else f"{store.unit} {p.code}") for p in store.products if p.code],
        ),
        (rng.choice(("Stock:", "In stock:")), [(p.name, str(p.stock)) for p in store.products if p.stock is not None]),
    ):
        if cells:
            parts.append(heading + (join if "\n" in join else " ") + join.join(n + bind + v for n, v in cells if v))
    return "\n".join(parts)


#: How often each stands in evaluation, and how often in training, which has more of what is hard.
LAYOUTS: list[tuple[int, int, str, Callable[[random.Random, Store], str]]] = [
    (9, 8, "bullets", bullets),
    (3, 3, "inline", inline),
    (6, 6, "sentences", sentences),
    (8, 12, "table", table),
    (6, 14, "csv", csv),
    (4, 4, "json", json_text),
    (4, 6, "key-value", key_value),
    (5, 10, "by aisle", by_aisle),
    (3, 3, "by attribute", by_attribute),
]


def fact_lines(rng: random.Random, store: Store) -> str:
    as_sentence, mark = rng.random() < 0.5, rng.choice(("", "", "- ", "* "))
    assign = rng.choice((": ", ": ", ": ", " - ", "=", " | "))
    lines = []
    for topic, value in store.facts.items():
        labels, texts = TOPICS[topic]
        lines.append(rng.choice(texts).format(v=value) if as_sentence else mark + rng.choice(labels) + assign + value)
    return rng.choice(("\n", " ") if as_sentence else ("\n",)).join(lines)


def system_prompt(rng: random.Random, store: Store) -> tuple[str, str]:
    """The prompt and the name of its layout."""
    prompt, name, _ = lesson_prompt(rng, store, practice=False)
    return prompt, name


def lesson_prompt(rng: random.Random, store: Store, practice: bool) -> tuple[str, str, list[Lesson]]:
    """The prompt, the name of its layout and its lessons; to `practice` has more of what is hard."""
    _, _, name, layout = rng.choices(LAYOUTS, [hard if practice else usual for usual, hard, _, _ in LAYOUTS])[0]
    heading = rng.choice(LIST_TITLES)
    whole = name == "json" and store.products and rng.random() < 0.4
    if whole:
        blocks = [json_store(rng, store)]
    else:
        blocks = [(heading + "\n" if heading else "") + layout(rng, store)] if store.products else []
    if store.facts and not whole:
        heading = rng.choice(FACT_TITLES)
        blocks.append((heading + "\n" if heading else "") + fact_lines(rng, store))
        rng.shuffle(blocks)
    opening = rng.choice(OPENINGS).format(s=store.title)
    if rng.random() < 0.12:
        blocks.append(rng.choice(CLOSINGS))
    prompt, lessons = without_lessons(rng.choice(("\n", "\n", "\n\n", " ")).join([b for b in (opening, *blocks) if b]))
    return prompt, name, lessons
