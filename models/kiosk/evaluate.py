#!/usr/bin/env python3
"""Measures the model through any server that speaks OpenAI's chat API; needs nothing but Python.

Stores, products, values and (in one row) phrasings are ones that training never saw. Seeds are fixed, so that two
runs ask the same. With --require it exits 1 when a row is below its target.
"""

import argparse
import json
import random
import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import acceptance
import chat
import unseen
from dialogue import SOLD_OUT, Dialogues, Turn
from layouts import LAYOUTS, system_prompt
from names import Names
from store import Store, make_store
from tools import Tool, make_tools

LENGTHS = (200, 500, 1000, 1500)  #: tokens of the whole prompt, at most
BY_HAND = "by hand"
TARGETS = {
    "value": 95.0,
    "value, new phrasing": 85.0,
    "value, blind phrasing": 85.0,
    "do not know": 90.0,
    "tool call": 90.0,
    BY_HAND: 80.0,
}
VALUES = ("price", "aisle", "stock", "fact")
ROWS: dict[str, tuple[str, ...]] = {
    "value": VALUES,
    "value, new phrasing": VALUES,
    "value, blind phrasing": VALUES,
    "follow-up": ("follow-up",),
    "do not know": ("unknown",),
    "tool call": ("tool",),
    "tool result": ("tool result",),
    "small talk": ("small talk",),
}

#: The rows asked in phrasings that training never saw.
PHRASINGS = {"value, new phrasing": unseen.NEW, "value, blind phrasing": unseen.BLIND}


@dataclass
class Case:
    row: str
    length: int
    system: str
    tools: list[Tool]
    turns: list[Turn]  #: the last one counts


@dataclass
class Result:
    case: Case
    right: bool
    same: bool  #: the whole answer is as trained
    answer: str
    prompt_tokens: int


def tokens(text: str) -> int:
    """About how many tokens a text has: digits and marks are one each, letters come in pieces of two or three."""
    return int(0.97 * len(re.findall(r"[A-Za-z]{1,3}|\d|[^\w\s]|\n| (?=\d)", text)))


def fitting_store(rng: random.Random, length: int, tools: list[Tool], layout: str | None) -> tuple[Store, str]:
    """A store whose prompt fills most of the length; in a layout, if one is given."""
    room = length - 40 - sum(tokens(json.dumps(tool.schema) + chat.example_call(tool.schema)) for tool in tools)
    while True:
        store = make_store(Names(rng, True), rng.randint(2, max(4, length // 14)))
        system, found = system_prompt(rng, store)
        if layout in (None, found) and 0.7 * room < tokens(system) < max(room, 60):
            return store, system


def make_case(row: str, length: int, number: int, layout: str | None = None) -> Case:
    rng = random.Random(f"{row} {length} {number}")
    with_tools = row.startswith("tool") or (row.startswith("value") and number % 5 == 0)
    while True:
        tools = make_tools(rng) if with_tools else []
        if sum(len(json.dumps(tool.schema)) for tool in tools) > 1.2 * length:
            tools = tools[:1]
        store, system = fitting_store(rng, length, tools, layout)
        talk = Dialogues(rng, store, tools, PHRASINGS.get(row))
        for _ in range(60):
            turns = talk.conversation()
            for last, turn in enumerate(turns):
                if turn.category in ROWS[row]:
                    return Case(row, length, system, tools, turns[: last + 1])


def by_hand() -> list[Case]:
    return [
        Case(BY_HAND, 500, system, [], [Turn(question, "", "price", value)])
        for system, question, value in acceptance.QUESTIONS
    ]


def contains(answer: str, value: str) -> bool:
    """The value as a whole: `4` is not in `aisle 14` or `$4.50`."""
    before = r"(?<![\w.,])" if value[:1].isalnum() else ""
    return re.search(before + re.escape(value) + r"(?![\w]|[.,]\d)", answer) is not None


def tool_call(message: dict) -> dict | None:
    """The first call, also from a server that leaves it in the text."""
    if message.get("tool_calls"):
        function = message["tool_calls"][0]["function"]
        name, arguments = function["name"], function["arguments"]
    else:
        found = re.search(r'"name": "([^"]*)", "arguments": (\{.*?\})\}', message.get("content") or "")
        if not found:
            return None
        name, arguments = found.groups()
    try:
        return {"name": name, "arguments": json.loads(arguments)}
    except json.JSONDecodeError:
        return None


def right(turn: Turn, message: dict) -> bool:
    if turn.category == "tool":
        call = tool_call(message)
        return call is not None and json.dumps(call).lower() == json.dumps(json.loads(turn.value)).lower()
    wanted = turn.value or turn.answer
    if wanted == SOLD_OUT:  # words of a question, too, which may end up in the name of what is not known
        wanted = f" has {SOLD_OUT}."
    return contains(message.get("content") or "", wanted)


class Client:
    def __init__(self, url: str, model: str | None, key: str) -> None:
        self.url, self.key = url.rstrip("/").removesuffix("/v1") + "/v1", key
        self.model = model or self.send("/models", None)["data"][0]["id"]

    def send(self, path: str, body: dict | None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=300) as reply:
            return json.load(reply)

    def run(self, case: Case) -> Result:
        messages: list[dict] = [{"role": "system", "content": case.system}]
        reply: dict = {}
        for turn in case.turns:
            call = messages[-1].get("tool_calls")
            if turn.role == "tool" and not call:
                return Result(
                    case, False, False, "(no call) " + messages[-1]["content"], reply["usage"]["prompt_tokens"]
                )
            extra = {"tool_call_id": call[0]["id"]} if call else {}
            messages.append({"role": turn.role, "content": turn.user, **extra})
            body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 80}
            if case.tools:
                body["tools"] = [tool.schema for tool in case.tools]
            try:
                reply = self.send("/chat/completions", body)
            except urllib.error.HTTPError as error:  # the model's own last answer may be what is refused
                if error.code != 400:
                    raise
                return Result(case, False, False, error.read().decode(), 0)
            message = reply["choices"][0]["message"]
            messages.append(
                {k: message[k] for k in ("role", "content", "tool_calls") if message.get(k) is not None}
                | {"content": message.get("content") or ""}
            )
        turn, content = case.turns[-1], message.get("content") or ""
        return Result(
            case,
            right(turn, message),
            content == turn.answer,
            " ".join([content, *(json.dumps(call["function"]) for call in message.get("tool_calls") or [])]),
            reply["usage"]["prompt_tokens"],
        )


def report(results: list[Result]) -> dict:
    cells: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for r in results:
        cells[r.case.row][f"<= {r.case.length}"].append(r)
        cells[r.case.row]["all"].append(r)
        if r.case.row.startswith("value"):
            kind = f"  {r.case.turns[-1].category}{r.case.row.removeprefix('value')}"
            cells[kind][f"<= {r.case.length}"].append(r)
            cells[kind]["all"].append(r)
    return {
        row: {
            length: {"right": 100 * sum(r.right for r in rs) / len(rs), "asked": len(rs)}
            for length, rs in lengths.items()
        }
        for row, lengths in cells.items()
    }


def table(figures: dict) -> str:
    lengths = [f"<= {n}" for n in LENGTHS] + ["all"]
    lines = [f"{'% right':<24}" + "".join(f"{n:>9}" for n in lengths) + "    asked   target"]
    for row, cells in figures.items():
        shares = "".join(f"{cells[n]['right']:9.1f}" if n in cells else f"{'':>9}" for n in lengths)
        lines.append(
            f"{row:<24}{shares}{cells['all']['asked']:>9}" + (f"{TARGETS[row]:9.0f}" if row in TARGETS else "")
        )
    return "\n".join(lines)


def least_shares(text: str, rows: list[str]) -> dict[str, float] | None:
    """What `--require` asks of these rows, without a text their targets; none if it asks nothing of them."""
    if not text:
        return {row: TARGETS[row] for row in rows if row in TARGETS} or None
    try:
        least = {row: float(share) for row, share in (part.rsplit("=", 1) for part in text.split(",") if part)}
    except ValueError:
        return None
    return least if least and least.keys() <= set(rows) else None


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("url", help="for example http://127.0.0.1:8080")
    cli.add_argument("--model", help="default: the first that the server lists")
    cli.add_argument("--key", default="none", help="API key")
    cli.add_argument(
        "--limit", type=int, default=50, metavar="N", help="questions for each row and length (default 50)"
    )
    cli.add_argument("--first", type=int, default=0, metavar="N", help="of the questions (default 0; 1000 asks others)")
    cli.add_argument(
        "--row",
        action="append",
        choices=[*ROWS, BY_HAND],
        metavar="ROW",
        help="only this row of the table; may be given again",
    )
    layouts = [name for _, _, name, _ in LAYOUTS]
    cli.add_argument("--layout", choices=layouts, help="only stores whose products are laid out so")
    cli.add_argument("--clients", type=int, default=8, help="requests at once")
    cli.add_argument("--json", action="store_true", help="print the figures as JSON")
    cli.add_argument("--wrong", action="store_true", help="print the questions that went wrong")
    cli.add_argument(
        "--require", nargs="?", const="", metavar="ROW=PERCENT,…", help="exit 1 below these, or below the targets"
    )
    args = cli.parse_args()
    rows = args.row or [*ROWS, BY_HAND]
    required = {} if args.require is None else least_shares(args.require, rows)
    if required is None:
        cli.error(f"--require: give ROW=PERCENT,… for rows that are asked ({'; '.join(rows)})")

    client = Client(args.url, args.model, args.key)
    numbers = range(args.first, args.first + args.limit)
    cases = [
        make_case(row, length, n, args.layout) for row in ROWS if row in rows for length in LENGTHS for n in numbers
    ]
    if BY_HAND in rows:
        cases += by_hand()
    with ThreadPoolExecutor(args.clients) as pool:
        results = list(pool.map(client.run, cases))
    figures = report(results)
    print(json.dumps(figures, indent=2) if args.json else table(figures))
    for r in results:
        if args.wrong and not r.right:
            turn = r.case.turns[-1]
            place, wanted = f"{r.case.row} <= {r.case.length} ({r.prompt_tokens})", turn.value or turn.answer
            print(f"{place}: {turn.user!r} wants {wanted!r}, got {r.answer!r}", file=sys.stderr)
    missed = [
        f"{row} {figures[row]['all']['right']:.1f} < {least:g}"
        for row, least in required.items()
        if figures[row]["all"]["right"] < least
    ]
    if missed:
        sys.exit("below target: " + "; ".join(missed))


if __name__ == "__main__":
    main()
