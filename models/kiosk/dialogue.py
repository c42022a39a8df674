"""Conversations about a store: the questions, the right answers, and tool calls where the fact is absent."""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import phrases
import topics
from names import other_number, sentence_case, title
from store import LONG_DAYS, PREPOSITION, Product, Store, hours, promotion
from tools import PRODUCT_TOOLS, Tool

#: What an answer about a topic starts with, and how it goes on to the value. As for products, the start is the same
#: when the value is unknown: the model decides once the whole name stands in its answer, which is easier to learn.
TOPIC_NAMES = {
    "hours": ("Our opening hours", "are"),
    "wifi": ("The wifi password", "is"),
    "returns": ("Our return policy", "is"),
    "promotion": ("Our promotion", "is"),
    "phone": ("Our phone number", "is"),
    "manager": ("The manager", "is"),
    "address": ("Our address", "is"),
    "parking": ("Parking", "is"),
    "restroom": ("The restroom", "is"),
}
CLAUSES = {
    "price": phrases.PRICE_CLAUSES,
    "place": phrases.PLACE_CLAUSES,
    "stock": phrases.STOCK_CLAUSES,
    **topics.CLAUSES,
}
UNKNOWN = {"price": "the price", "place": "where it is", "stock": "the stock"}
#: What an answer says for a stock of zero.
SOLD_OUT = "sold out"


@dataclass
class Turn:
    """One question and its answer; `value` must be in a right answer. A tool's result is a turn of role `tool`."""

    user: str
    answer: str
    category: str
    value: str = ""
    role: str = "user"


class Habits(NamedTuple):
    """What customers ask, and how."""

    #: How often for products that are there, for ones that are not, about the store, and for something else; of a store
    #: with tools (True) and without.
    subjects: dict[bool, tuple[int, int, int, int]]
    #: How often for a product's price, place, stock, whether it is there, and about it.
    attributes: tuple[int, int, int, int, int]
    part: float  #: how often they call a product by a part of its name
    other_number: float  #: how often they say it in the singular for the plural or the other way round
    single: float = 0.0  #: how often the name of a product that is not there is cut to one of its words
    confusable: bool = False  #: whether they ask more for products whose names are mistaken more (`likely`)


USUAL = Habits(
    {True: (33, 38, 15, 14), False: (65, 15, 15, 5)}, attributes=(27, 32, 31, 6, 4), part=0.12, other_number=0.08
)
#: More for products, and more of what is mistaken more: everywhere, and by layout where that differs.
IN_PRACTICE = Habits(
    {True: (37, 42, 10, 11), False: (74, 14, 9, 3)},
    attributes=(20, 30, 40, 6, 4),
    part=0.25,
    other_number=0.18,
    single=0.2,
    confusable=True,
)
IN_COLUMNS = IN_PRACTICE._replace(attributes=(15, 28, 47, 6, 4))
IN_PRACTICE_OF = {
    "by aisle": IN_PRACTICE._replace(attributes=(15, 55, 20, 6, 4)),
    "table": IN_COLUMNS,
    "csv": IN_COLUMNS,
}
#: What a tool for opening hours is asked for, if the customer names no day: "today".
ASKED_DAYS = [day.lower() for day in LONG_DAYS] + ["tomorrow"]
#: What a product tool answers when it finds nothing.
NOT_FOUND = [
    "not found",
    '{"error": "not found"}',
    "No results.",
    "[]",
    "null",
    "No {x}",
    '{"found": false}',
    "{}",
    '{"results": []}',
]
STAFF_RESULTS = ["called", "ok", "on the way", "notified", "success", "Somebody comes in 2 minutes"]
ORDER_STATES = [
    "shipped",
    "delivered",
    "in transit",
    "ready for pickup",
    "being packed",
    "cancelled",
    "delayed until Friday",
    "arriving tomorrow",
    "waiting for payment",
    "returned",
    "on the truck",
    "unknown",
]


def result_text(rng: random.Random, fields: dict[str, object]) -> str:
    """A tool's result: mostly JSON, bare or wrapped, sometimes text."""
    kind = rng.random()
    if kind < 0.12 and fields:
        return rng.choice((", ", "; ", "\n")).join(f"{k}: {v}" for k, v in fields.items())
    wrapped: object = fields
    if kind < 0.2:
        wrapped = [fields]
    elif kind < 0.28:
        wrapped = {rng.choice(("result", "data", "product")): fields}
    elif kind < 0.36:
        wrapped = {rng.choice(("found", "ok", "success")): True, **fields}
    return json.dumps(wrapped, ensure_ascii=False, separators=rng.choice(((", ", ": "), (", ", ": "), (",", ":"))))


#: After these words a name has no article: "how many oat milks", not "how many the oat milks".
BARE = re.compile(
    r"\b(many|any|more|enough|no|some|your|the|single|one|two|three|five|six|ten|twenty|several) \0(the|a|your|some) ",
    re.IGNORECASE,
)


def likely(products: list[Product]) -> list[int]:
    """How often to practise each product: more often one that shares a word with others, most often one that is a word of
    others, because such names are mistaken most.
    """
    names = [p.name.lower().split() for p in products]
    stores_words = Counter(word for name in names for word in set(name))
    return [(3 if len(name) > 1 else 5) if any(stores_words[w] > 1 for w in name) else 1 for name in names]


class Dialogues:
    """Asks about one store; with `held_out` phrases, which training never sees, in these."""

    def __init__(
        self,
        rng: random.Random,
        store: Store,
        tools: list[Tool],
        held_out: dict[str, list[str]] | None = None,
        habits: Habits = USUAL,
    ) -> None:
        self.rng, self.store, self.held_out, self.habits = rng, store, held_out or {}, habits
        self.likely = likely(store.products) if habits.confusable else None
        self.tools = {tool.purpose: tool for tool in tools}

    def phrase(self, kind: str, known: list[str], **values: str) -> str:
        rng = self.rng
        if kind in self.held_out:
            text = rng.choice(self.held_out[kind])
        elif kind in CLAUSES and rng.random() < 0.3:
            text = sentence_case(rng.choice(phrases.OPENERS).replace("{}", rng.choice(CLAUSES[kind])))
        else:
            text = rng.choice(known)
        before, after = rng.choice(phrases.BEFORE), rng.choice(phrases.AFTER)
        if before and before[-2] not in ".!" and not text.startswith(("I", "{")):
            text = text[0].lower() + text[1:]
        if text[-1] in "?." and (after or rng.random() < 0.2):
            mark = text[-1] if rng.random() < 0.8 else ""
            text = text[:-1] + mark + after if after.endswith(".") else text[:-1] + after + mark
        else:
            text += after
        text = before + text
        if kind in CLAUSES and rng.random() < 0.06:
            text = rng.choice(phrases.CONTEXT) + " " + text
        if rng.random() < 0.25:
            text = text.lower()
        return text.format(**values)

    def garbled(self, text: str, kept: str) -> str:
        """Strange words beside the name now and then: what belongs to a name that is in the facts, they tell."""
        rng = self.rng
        if kept not in text:  # it lost its article
            kept = kept.partition(" ")[2]
        before, name, after = text.partition(kept)
        if not name or rng.random() < 0.78:
            return text
        first, last = before.split(" "), after.split(" ")
        for _ in range(rng.choice((1, 1, 2))):
            word = rng.choice(self.store.names.words)
            if any(word in p.name.lower() for p in self.store.products):  # it could mean that one
                continue
            if rng.random() < 0.5:
                first.insert(rng.randrange(len(first)), word)
            else:
                last.insert(rng.randint(1, len(last)), word)
        return " ".join(first) + name + " ".join(last)

    def asked(self) -> tuple[Product, str]:
        """A product and how a customer calls it, sometimes by a part of its name.

        The answer's name starts where the customer's does: to find a word before that is much harder to learn.
        """
        rng = self.rng
        p = rng.choices(self.store.products, self.likely)[0] if self.likely else rng.choice(self.store.products)
        words = p.name.split()
        if len(words) > 1 and rng.random() < self.habits.part:
            first = rng.random() < 0.6
            part = " ".join(words[1:] if first else words[:-1])
            if sum(part.lower() in other.name.lower() for other in self.store.products) == 1 and len(part) > 3:
                return replace(p, name=part) if first else p, self.spoken(part)[1]
        return p, self.spoken(p.name)[1]

    def spoken(self, name: str) -> tuple[str, str]:
        """The name as a customer says it, and with its article."""
        rng = self.rng
        kind = rng.random()
        said = name if kind < 0.3 else title(name.lower()) if kind < 0.36 else name.lower()
        if rng.random() < self.habits.other_number:
            said = other_number(said)
        return said, rng.choice(("the ", "the ", "the ", "", "", "", "a ", "your ", "some ")) + said

    def place(self, p: Product) -> str:
        return f"{PREPOSITION[self.store.unit]} {self.store.unit} {p.code}"

    def call(self, purpose: str, argument: str, user: str, subject: str = "") -> Turn:
        """A tool call; about a subject it names that first, as every answer does."""
        tool = self.tools[purpose]
        call = json.dumps(
            {"name": tool.name, "arguments": {tool.argument: argument} if tool.argument else {}}, ensure_ascii=False
        )
        before = f"{subject}? Let me check.\n" if subject else ""
        return Turn(user, f"{before}<tool_call>\n{call}\n</tool_call>", "tool", call)

    def answer(self, p: Product, attribute: str, user: str) -> Turn:
        """The answer about a product that the store has, named as in the facts; unknown when it lacks the attribute.

        Behind the name each attribute has a verb of its own, so that what is looked up is said before its value.
        """
        name = sentence_case(p.name)
        if attribute == "price" and p.price:
            return Turn(user, f"{name} costs {p.price}.", "price", p.price)
        if attribute == "place" and p.code:
            return Turn(user, f"{name} is {self.place(p)}.", "aisle", p.code)
        if attribute in ("stock", "sell") and p.stock == 0:
            return Turn(user, f"{name} has {SOLD_OUT}.", "stock", SOLD_OUT)
        if attribute == "stock" and p.stock is not None:
            return Turn(user, f"{name} has {p.stock} in stock.", "stock", str(p.stock))
        if attribute == "about" and p.price and p.code:
            return Turn(user, f"{name} costs {p.price} and is {self.place(p)}.", "about", p.price)
        if attribute in ("sell", "about"):
            return Turn(user, f"{name}? Yes, we have it.", "sell", "Yes")
        return self.unknown(attribute, p.name, user)

    def unknown(self, attribute: str, name: str, user: str) -> Turn:
        name = sentence_case(name)
        purpose = next((purpose for purpose in PRODUCT_TOOLS[attribute] if purpose in self.tools), None)
        if purpose:
            return self.call(purpose, name, user, name)
        what = f" {UNKNOWN[attribute]}" if attribute in UNKNOWN else ""
        return Turn(user, f"{name}? Sorry, I don't know{what}.", "unknown", "I don't know")

    def ask(self, attribute: str, x: str) -> str:
        known = {
            "price": phrases.PRICE,
            "place": phrases.PLACE,
            "stock": phrases.STOCK,
            "sell": phrases.SELL,
            "about": phrases.ABOUT,
        }[attribute]
        text = self.phrase(attribute, known, x="\0" + x, u=self.store.unit if self.rng.random() < 0.7 else "aisle")
        return BARE.sub(r"\1 ", text).replace("\0", "")

    def attribute(self) -> str:
        return self.rng.choices(("price", "place", "stock", "sell", "about"), self.habits.attributes)[0]

    def product_turns(self) -> list[Turn]:
        rng = self.rng
        attribute = self.attribute()
        p, with_article = self.asked()
        turns = [self.answer(p, attribute, self.garbled(self.ask(attribute, with_article), with_article))]
        while rng.random() < 0.36:
            if rng.random() < 0.5:
                attribute = rng.choice([a for a in ("price", "place", "stock") if a != attribute])
                known = {"price": phrases.IT_PRICE, "place": phrases.IT_PLACE, "stock": phrases.IT_STOCK}[attribute]
                turns.append(self.answer(p, attribute, self.phrase("it", known, u=self.store.unit)))
            elif attribute not in ("sell", "about"):
                p, with_article = self.asked()
                turns.append(self.answer(p, attribute, self.phrase("and", phrases.AND_OTHER, x=with_article)))
            turns[-1].category = (
                "follow-up" if len(turns) > 1 and turns[-1].category not in ("unknown", "tool") else turns[-1].category
            )
        return turns

    def lookup(self) -> Turn | None:
        """An answer with a value, whose words before that tell what is looked up; none if chance chose something else."""
        if not self.store.products:
            return None
        p, attribute = self.asked()[0], self.rng.choices(("price", "place", "stock"), self.habits.attributes[:3])[0]
        turn = self.answer(p, attribute, "")
        return turn if turn.category in ("price", "aisle", "stock") else None

    def absent_turns(self) -> list[Turn]:
        said, with_article = self.spoken(self.store.absent(self.habits.single))
        attribute = self.attribute()
        turns = [self.unknown(attribute, said, self.ask(attribute, with_article))]
        if turns[0].category == "tool" and self.rng.random() < 0.65:
            turns.append(self.tool_result(said, attribute))
        return turns

    def without_tools(self) -> "Dialogues":
        return Dialogues(self.rng, self.store, [])

    def tool_result(self, said: str, attribute: str) -> Turn:
        """What the product tool answers, and the sentence made of it."""
        rng, model = self.rng, self.rng.choice(self.store.products)
        found = Product(rng.choice((said, title(said))), model.price, model.code, model.stock)
        if rng.random() < 0.12:
            turn = self.without_tools().unknown(attribute, said, rng.choice(NOT_FOUND).replace("{x}", said))
            turn.role = "tool"
            return turn
        stock = rng.choice(("stock", "stock", "quantity", "in_stock", "units"))
        unit = rng.choice((self.store.unit, self.store.unit, "location")) if found.code else self.store.unit
        fields = {"name": found.name, "price": found.price, unit: found.code, stock: found.stock}
        if attribute in ("price", "place", "stock") and rng.random() < 0.2:  # nothing but what was asked
            key = {"price": "price", "place": unit, "stock": stock}[attribute]
            fields = {"name": found.name, key: fields[key]}
        kept = [(k, v) for k, v in fields.items() if v is not None and (k != "name" or rng.random() < 0.8)]
        if rng.random() < 0.3:
            rng.shuffle(kept)
        turn = self.without_tools().answer(found, attribute, result_text(rng, dict(kept)))
        turn.category, turn.role = "tool result", "tool"
        return turn

    def topic_turns(self) -> list[Turn]:
        rng = self.rng
        topic = rng.choice([*TOPIC_NAMES, *(t for t in TOPIC_NAMES if t in self.tools for _ in range(4))])
        user = self.phrase(topic, topics.QUESTIONS[topic], d=rng.choice(LONG_DAYS))
        name, verb = TOPIC_NAMES[topic]
        if topic in self.store.facts:
            value = self.store.facts[topic]
            return [Turn(user, f"{name} {verb} {value}.", "fact", value)]
        if topic in self.tools:
            day = next((day for day in ASKED_DAYS if day in user.lower()), "today")
            turns = [self.call(topic, day, user, name)]
            if rng.random() < 0.5:
                value = hours(rng) if topic == "hours" else promotion(self.store.names)
                result = result_text(rng, {rng.choice((topic, "text", "value", "opening_hours", "info")): value})
                turns.append(Turn(result, f"{name} {verb} {value}.", "tool result", value, "tool"))
            return turns
        return [Turn(user, f"{name}? Sorry, I don't know.", "unknown", "I don't know")]

    def other_turns(self) -> list[Turn]:
        rng = self.rng
        kind = rng.random()
        number = rng.choice(("", "", "A", "#", "ORD-", "B-")) + str(rng.randint(100, rng.choice((999, 99999, 9999999))))
        if "staff" in self.tools and kind < 0.45:
            user = self.phrase("staff", phrases.STAFF)
            turns = [self.call("staff", user if self.tools["staff"].argument else "", user)]
            if rng.random() < 0.4:
                result = result_text(rng, {rng.choice(("status", "result", "staff")): rng.choice(STAFF_RESULTS)})
                turns.append(Turn(result, phrases.STAFF_COMES, "tool result", phrases.STAFF_COMES, "tool"))
            return turns
        if "order" in self.tools and kind < 0.9:
            user = self.phrase("order", phrases.ORDER, x=number).replace(number.lower(), number)
            turns = [self.call("order", number, user)]
            if rng.random() < 0.4:
                status = rng.choice(ORDER_STATES)
                result = result_text(rng, {"order": number, rng.choice(("status", "state", "result")): status})
                turns.append(Turn(result, f"The status of order {number} is: {status}.", "tool result", status, "tool"))
            return turns
        if kind < (0.7 if self.tools else 0.15):  # no tool helps
            if "staff" not in self.tools:
                return [Turn(self.phrase("staff", phrases.STAFF), phrases.NO_STAFF, "small talk", phrases.NO_STAFF)]
            user = self.phrase("order", phrases.ORDER, x=number)
            return [Turn(user, "Sorry, I don't know that.", "small talk", "I don't know that")]
        users, answer = rng.choices(phrases.SMALL_TALK, (4, 2, 1, 1, 2))[0]
        user = rng.choice(users)
        return [Turn(user.lower() if rng.random() < 0.3 else user, answer, "small talk", answer)]

    def conversation(self) -> list[Turn]:
        products, absent, topic, other = self.habits.subjects[bool(self.tools)]
        turns = self.rng.choices(
            (self.product_turns, self.absent_turns, self.topic_turns, self.other_turns),
            (products if self.store.products else 0, absent, topic, other),
        )[0]
        return turns()
