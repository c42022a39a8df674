"""Tools that a request offers: named and described in many ways, some without parameters, some that never help."""

import random
from dataclasses import dataclass, field

from names import title

#: What a tool about products tells, best choice first, by what is asked. "product" tells everything.
PRODUCT_TOOLS = {
    "price": ("price", "product", "stock", "place"),
    "place": ("place", "product", "stock", "price"),
    "stock": ("stock", "product", "price", "place"),
    "sell": ("stock", "product", "price", "place"),
    "about": ("product", "price", "place", "stock"),
}


@dataclass
class Tool:
    #: "product", "price", "place", "stock", "hours", "promotion", "staff", "order" or "other" (never the right one)
    purpose: str
    name: str
    argument: str | None
    schema: dict = field(repr=False)


VERBS = ["check", "get", "find", "look_up", "lookup", "search", "query", "fetch", "read", "show", "retrieve"]
STAFF_VERBS = ["call", "notify", "ask", "page", "request", "contact", "alert", "summon"]
NOUNS = {
    "product": [
        "product",
        "item",
        "stock",
        "inventory",
        "price",
        "product_info",
        "article",
        "catalog",
        "products",
        "item_details",
        "product_database",
        "goods",
        "warehouse",
        "assortment",
    ],
    "price": ["price", "cost", "item_price", "product_price", "prices", "price_of_item"],
    "place": ["location", "aisle", "product_location", "shelf", "item_location", "place", "where"],
    "stock": ["stock", "inventory", "availability", "stock_level", "quantity", "item_stock", "count"],
    "hours": ["opening_hours", "store_hours", "hours", "opening_times", "schedule", "business_hours"],
    "promotion": ["promotions", "offers", "deals", "discounts", "specials", "sales"],
    "staff": ["staff", "employee", "assistant", "colleague", "manager", "human", "person", "clerk", "help"],
    "order": ["order", "order_status", "delivery", "parcel", "shipment", "package", "pickup"],
    "other": [
        "weather",
        "news",
        "time",
        "exchange_rate",
        "bus_times",
        "horoscope",
        "translation",
        "calculator",
        "music",
        "email",
        "feedback",
        "loyalty_points",
        "recipe",
        "currency",
        "date",
        "traffic",
        "newsletter",
        "coupon",
        "cart",
        "payment",
    ],
}
ARGUMENTS: dict[str, list[str | None]] = {
    "product": ["product", "name", "item", "query", "product_name", "article", "q", "text", "search", "item_name"],
    "hours": [None, None, "day", "weekday"],
    "promotion": [None],
    "staff": [None, "reason", "message", "request"],
    "order": ["order_id", "id", "number", "order", "order_number", "tracking_number"],
    "other": ["city", "place", "topic", "text", "amount", "message", None],
}
TEXTS = {
    "product": [
        "Look up a product in the stock system.",
        "Find price, aisle and stock of a product",
        "Search the inventory",
        "Get details of an item by its name.",
        "Everything the store knows about an article.",
        "Returns price, location and availability.",
        "Query the product database by name",
        "Use this when a product is not in the list.",
        "Finds a product that the customer asks about.",
        "Product search",
    ],
    "price": [
        "Get the price of a product.",
        "What an item costs",
        "Returns the current price for the given name.",
        "Price lookup",
        "Tells how much something is.",
    ],
    "place": [
        "Find where a product is.",
        "Get the aisle of an item",
        "Returns the location of a product in the store.",
        "Tells in which aisle or shelf an article is.",
        "Location lookup",
    ],
    "stock": [
        "Check if a product is in stock.",
        "Get the number of units left",
        "Returns the stock level of an item.",
        "Is an article available, and how many",
        "Inventory count for a product",
    ],
    "hours": [
        "Get the opening hours.",
        "When the store is open",
        "Opening hours of the store",
        "Returns opening and closing time.",
        "Business hours",
    ],
    "promotion": ["Current offers.", "List today's promotions", "What is on sale", "Returns the deals of the week."],
    "staff": [
        "Call a member of staff.",
        "Ask a colleague to come to the customer",
        "Get human help.",
        "Sends an employee to the kiosk.",
        "For customers who need a person.",
        "Hand over to a human",
    ],
    "order": [
        "Get the status of an order.",
        "Track an order by its number",
        "Find a delivery",
        "Where an order is.",
        "Returns the shipping status for an order number",
    ],
    "other": [
        "Get the weather.",
        "Information from the internet",
        "Other information",
        "Converts an amount.",
        "Sends a message.",
        "Public transport near the store",
        "Plays something.",
        "Points of a customer's card",
        "For anything else.",
    ],
}
#: What long descriptions go on with.
MORE_TEXTS = [
    "Use it only when the answer is not in the conversation.",
    "Returns JSON.",
    "Call this before you say that you do not know.",
    "Args: see the parameters below. Returns: a short text for the customer.",
    "The answer may be a few minutes old. Do not call it twice for one question.",
]
ARGUMENT_TEXTS = ["The name", "What to look for", "name of it", "as the customer said it", "Required.", "e.g. {e}"]
EXAMPLES = ["milk", "oat milk", "AA batteries", "12345", "Monday", "Paris"]
#: Parameters that may be left out, and are.
OPTIONAL = ["limit", "language", "store_id", "branch", "format", "verbose", "unit"]


def tool_name(rng: random.Random, verb: str, noun: str) -> str:
    kind = rng.random()
    if kind < 0.15:
        noun_words = title(noun.replace("_", " ")).replace(" ", "")
        return verb.replace("_", "") + noun_words
    if kind < 0.25:
        return f"{noun}_{verb.replace('_', '')}"
    if kind < 0.32:
        return noun
    if kind < 0.37:
        return f"{verb}-{noun}".replace("_", "-")
    if kind < 0.47:
        prefix = rng.choice(("store", "kiosk", "shop", "api", "my", "".join(rng.choices("abcdefgknoprstuvz", k=4))))
        return f"{prefix}_{verb}_{noun}"
    return f"{verb}_{noun}"


def make_tool(rng: random.Random, purpose: str) -> Tool:
    verb = rng.choice(STAFF_VERBS if purpose == "staff" else VERBS + ["track"] * (3 if purpose == "order" else 0))
    argument = rng.choice(ARGUMENTS["product" if purpose in PRODUCT_TOOLS else purpose])
    name = tool_name(rng, verb, rng.choice(NOUNS[purpose]))
    properties = {argument: {"type": "string"}} if argument else {}
    if argument and rng.random() < 0.35:
        properties[argument]["description"] = rng.choice(ARGUMENT_TEXTS).replace("{e}", rng.choice(EXAMPLES))
    parameters: dict = {"type": "object", "properties": properties}
    if rng.random() < (0.75 if argument else 0.5):
        parameters["required"] = [argument] if argument else []
    if rng.random() < 0.12:
        properties[rng.choice(OPTIONAL)] = {"type": rng.choice(("string", "integer"))}
    if rng.random() < 0.12:
        parameters["additionalProperties"] = False
    description = rng.choice(TEXTS[purpose])
    if rng.random() < 0.1:  # long ones, of which the prompt repeats the beginning
        description += rng.choice((" ", "\n", "\n\n")) + rng.choice(MORE_TEXTS)
    function = {"name": name, "description": description, "parameters": parameters}
    if rng.random() < 0.1:
        del function["description"]
    if not properties and rng.random() < 0.1:
        del function["parameters"]
    if rng.random() < 0.2:  # renderers that sort keys
        function = dict(sorted(function.items()))
    schema = {"type": "function", "function": function}
    return Tool(purpose, name, argument, dict(sorted(schema.items())) if rng.random() < 0.2 else schema)


def make_tools(rng: random.Random, practice: bool = False) -> list[Tool]:
    """Mostly with one for products, or with several that each tell one thing about them; and some for other things. To
    `practice` more of these two, and fewer without any for products.
    """
    kind = rng.random()
    products = ["product"] if kind < 0.55 else []
    if kind > (0.74 if practice else 0.82):
        products = rng.sample(["price", "place", "stock"], rng.choice((1, 2, 2, 3)))
    count = rng.choice((0, 1, 1, 2, 2, 3, 3) if practice else (0, 0, 1, 1, 2, 2, 3))
    others = rng.sample(["hours", "promotion", "staff", "order", "other"], count)
    purposes = products + others or ["product"]
    rng.shuffle(purposes)
    return [make_tool(rng, purpose) for purpose in purposes]
