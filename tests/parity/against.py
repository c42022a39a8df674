#!/usr/bin/env python3
"""Asks two OpenAI-compatible servers of the same model the same twelve questions at temperature 0 and says how many whole
answers are the same: one after the other, and sixteen at a time (the first four are asked twice then).

    against.py URL OTHER_URL [--tokens 96]

Where answers part it prints both, and how much likelier the first server held its token than the next best: where that
is little, roundings explain it. Both versions are printed, because neither stays as it is. Standard library only;
docs/real-models.md says how to run it against llama-server. It is no test: two builds may round differently and both be
right.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

AT_A_TIME = 16
STORE = """You are the assistant of Harbour Corner Shop. Answer in one short sentence with facts from the list.
Products:
- Brindle Oat Bar: $2.49, aisle 7, 31 in stock
- Quarry Sparkling Water: $1.15, aisle 3, 120 in stock
- Velmont Ground Coffee: $8.90, aisle 12, 14 in stock
- Osprey Sun Lotion: $11.75, aisle 5, out of stock
Opening hours: 8:00 to 21:30"""


def store(*turns: str) -> list[dict]:
    roles = ["user", "assistant"] * len(turns)
    return [{"role": "system", "content": STORE}] + [{"role": role, "content": turn} for role, turn in zip(roles, turns)]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


QUESTIONS = [
    store("How much is the Brindle Oat Bar?"),
    store("Where do I find the sparkling water?"),
    store("Is there any sun lotion left?", "No, it is out of stock.", "And how much would it be?"),
    store("Repeat the list of products, word for word."),
    user("Explain in three sentences why the sky is blue."),
    user("Write a Python function that reverses a list."),
    user("Count from one to twenty, in words, separated by commas."),
    user("What is the difference between a list and a tuple in Python?"),
    user("Name the planets of the solar system, one a line."),
    user("Write a haiku about a lighthouse."),
    user("Translate into German: The harbour opens at eight in the morning."),
    user("Write an SQL query for the ten customers with the highest total of orders."),
]


def patiently(request: urllib.request.Request) -> bytes:
    """Asks again for two minutes where the server is still loading."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.read()
        except urllib.error.HTTPError as refusal:
            if refusal.code != 503 or time.monotonic() > deadline:
                sys.exit(f"{request.full_url} answers {refusal.code}: {refusal.read().decode(errors='replace')}")
            time.sleep(1)


@dataclass
class Answer:
    """Tokens of an answer, and by how much each was likelier than the next best (natural logarithms)."""

    tokens: list[str]
    leads: list[float]

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class Server:
    """What one of the two is asked."""

    def __init__(self, url: str, tokens: int):
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tokens = tokens
        self.model = json.loads(self.get("/v1/models"))["data"][0]["id"]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def version(self) -> str:
        """llama-server tells it in its properties, edgellm in its metrics."""
        for path, pattern in (("/props", r'"build_info":\s*"([^"]+)"'), ("/metrics", r"edgellm_build_info\{([^}]*)\}")):
            try:
                if found := re.search(pattern, self.get(path)):
                    return f"{'llama-server' if path == '/props' else 'edgellm'} {found[1]}"
            except urllib.error.HTTPError:
                continue
        return "a server that does not tell its version"

    def ask(self, messages: list[dict]) -> Answer:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.tokens, "logprobs": True, "top_logprobs": 2}
        request = urllib.request.Request(self.url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        tokens = json.loads(patiently(request))["choices"][0]["logprobs"]["content"]
        return Answer([token["token"] for token in tokens], [lead(token) for token in tokens])

    def one_by_one(self) -> list[Answer]:
        return [self.ask(question) for question in QUESTIONS]

    def together(self) -> list[Answer]:
        asked = (QUESTIONS + QUESTIONS)[:AT_A_TIME]
        with ThreadPoolExecutor(AT_A_TIME) as clients:
            return list(clients.map(self.ask, asked))[: len(QUESTIONS)]


def lead(token: dict) -> float:
    others = [other["logprob"] for other in token["top_logprobs"] if other["token"] != token["token"]]
    return token["logprob"] - max(others, default=float("-inf"))


def compare(how: str, ours: list[Answer], theirs: list[Answer]):
    same = sum(one.text == other.text for one, other in zip(ours, theirs))
    print(f"{how}: {same} of {len(ours)} whole answers the same")
    for number, (one, other) in enumerate(zip(ours, theirs), 1):
        if one.text == other.text:
            continue
        pairs = enumerate(zip(one.tokens, other.tokens))
        place = next((place for place, (token, rival) in pairs if token != rival), min(len(one.tokens), len(other.tokens)))
        likelier = f", {one.leads[place]:.3f} likelier than the next best" if place < len(one.leads) else ""
        print(f"  question {number} parts at token {place}: {''.join(one.tokens[place:place + 6])!r}{likelier}; "
              f"{''.join(other.tokens[place:place + 6])!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("other_url")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer at most")
    arguments = parser.parse_args()
    ours, theirs = (Server(url, arguments.tokens) for url in (arguments.url, arguments.other_url))
    for server in (ours, theirs):
        print(f"{server.url}: {server.version()}, model {server.model}")
    for how in (Server.one_by_one, Server.together):
        compare(how.__name__.replace("_", " "), how(ours), how(theirs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
