"""The kinds of clients of a soak. Each function is one visit: it notes how that went, and whatever nobody would expect."""

import json
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
from gateway import ask
from judge import Ledger
from wire import Wire, request, reset, status

WORDS = "milk bread coffee tea sugar oats apples water juice soap paper rice salt plums honey butter cheese eggs flour nuts".split()
#: A server that is asked for more than it can do says so. 429 is a key's own limit.
BUSY = {503, 429}
#: Why a request that was let in may be put out again.
PUT_OUT = {"queue_full", "deadline_unreachable", "memory"}
FLOOD = 80


class Notes:
    """What all clients have seen; they write at the same time."""

    def __init__(self):
        self._lock = threading.Lock()
        self.outcomes, self.unexpected = Counter(), []
        self._answered, self._left = 0, 0

    def saw(self, outcome: str):
        with self._lock:
            self.outcomes[outcome] += 1

    def wonder(self, text: str):
        with self._lock:
            self.outcomes["unexpected"] += 1
            if len(self.unexpected) < 30:
                self.unexpected.append(text[:400])

    def answered(self):
        """A request whose status somebody has seen."""
        with self._lock:
            self._answered += 1

    def left(self):
        """One whose client left before that: the server may have counted it, or never have read it whole."""
        with self._lock:
            self._left += 1

    @property
    def ledger(self) -> Ledger:
        return Ledger(self._answered, self._left)


class Shop:
    """What a visit needs: the way to the server, keys, a generator of its own, and where to note."""

    def __init__(self, wire: Wire, keys: dict[str, str], notes: Notes, seed: int):
        self.wire, self.keys, self.notes, self.dice = wire, keys, notes, random.Random(seed)

    def question(self) -> list[dict]:
        """In turn one behind the store's prompt, which all share, and one that nobody has asked before."""
        text = " ".join(self.dice.choices(WORDS, k=self.dice.randrange(3, 40)))
        if self.dice.random() < 0.6:
            return ask(f"Where is the {text[:40]}?")
        return [{"role": "system", "content": f"{self.dice.getrandbits(64):x} {text}"}, {"role": "user", "content": f"Repeat: {text}"}]

    def body(self, **parameters) -> dict:
        return {"model": "kiosk", "messages": self.question(), "max_tokens": self.dice.randrange(8, 200), **parameters}

    def refused(self, kind: str, error: openai.APIError, expected: set[int] = BUSY):
        """Notes a refusal, which must say when to come back; it may also come in the middle of a stream, which has a status already."""
        self.notes.answered()
        if not isinstance(error, openai.APIStatusError):
            if error.code in PUT_OUT:
                self.notes.saw(f"{kind}: {error.code}")
            else:
                self.notes.wonder(f"{kind}: {error!r}")
        elif error.status_code in expected and (error.status_code not in BUSY or int(error.response.headers.get("retry-after", 0)) > 0):
            self.notes.saw(f"{kind}: {error.status_code}")
        else:
            self.notes.wonder(f"{kind}: {error.status_code} {error}")


def whole_stream(shop: Shop):
    tier = shop.dice.choice(["default", "flex", "priority"])
    with shop.wire.sdk(shop.keys[shop.dice.choice(["till", "kiosk", "batch"])]) as client:
        try:
            text, reason = "", None
            for chunk in client.chat.completions.create(**shop.body(stream=True, service_tier=tier)):
                if chunk.choices:
                    text += chunk.choices[0].delta.content or ""
                    reason = chunk.choices[0].finish_reason or reason
        except openai.APIError as error:
            return shop.refused("whole stream", error)
    shop.notes.answered()
    if reason in ("stop", "length"):
        return shop.notes.saw("whole stream")
    return shop.notes.wonder(f"whole stream: it ended with {reason} after {text!r}")


def cancelled_stream(shop: Shop):
    with shop.wire.sdk(shop.keys["kiosk"]) as client:
        try:
            with client.chat.completions.create(**shop.body(stream=True, max_tokens=1000, extra_body={"ignore_eos": True})) as stream:
                for _ in zip(range(shop.dice.randrange(30)), stream, strict=False):
                    pass
        except openai.APIError as error:
            return shop.refused("cancelled stream", error)
    shop.notes.answered()
    return shop.notes.saw("cancelled stream")


def vanished(shop: Shop):
    """A connection that ends by RST: somewhere in the request, before the answer, or somewhere in it."""
    data = request(shop.keys["kiosk"], shop.body(stream=shop.dice.random() < 0.5, max_tokens=1000, ignore_eos=True))
    connection = shop.wire.connect()
    match shop.dice.randrange(3):
        case 0:
            connection.sendall(data[: shop.dice.randrange(len(data))])
            shop.notes.left()
        case 1:
            connection.sendall(data)
            time.sleep(shop.dice.random() / 2)
            shop.notes.left()
        case _:
            connection.sendall(data)
            if status(connection.recv(4096)):
                shop.notes.answered()
            else:
                shop.notes.left()
    reset(connection)
    shop.notes.saw("vanished")


def half_closed(shop: Shop):
    """Like `nc -N`: it closes its own side and reads on. TLS has no such thing: there, who closes has left."""
    connection = shop.wire.connect()
    connection.sendall(request(shop.keys["kiosk"], shop.body(), connection="close"))
    if shop.wire.context:
        shop.notes.left()
        connection.close()
    else:
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.close()
        shop.notes.answered()
        if status(answer) not in {200, *BUSY}:
            return shop.notes.wonder(f"half closed: {answer[:300]!r}")
    time.sleep(0.2)
    return shop.notes.saw("half closed")


def silent(shop: Shop):
    """Says nothing, or not enough, until the server has had enough of it; with TLS that is in the middle of the handshake."""
    connection = shop.wire.bare() if shop.dice.random() < 0.5 else shop.wire.connect()
    with connection:
        if shop.dice.random() < 0.5 and not (shop.wire.context and not isinstance(connection, ssl.SSLSocket)):
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ")
        began = time.monotonic()
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return shop.notes.wonder(f"silent: it was still connected after {time.monotonic() - began:.0f} s")
    return shop.notes.saw("silent")


def slow_reader(shop: Shop):
    connection = shop.wire.connect(receives=4096)
    connection.sendall(request(shop.keys["kiosk"], shop.body(stream=True, max_tokens=2000, ignore_eos=True), connection="close"))
    head = connection.recv(512)
    until = time.monotonic() + shop.dice.randrange(3, 15)
    while time.monotonic() < until and connection.recv(512):
        time.sleep(0.2)
    reset(connection)
    shop.notes.answered() if status(head) else shop.notes.left()
    if status(head) not in {0, 200, *BUSY}:
        return shop.notes.wonder(f"slow reader: {head!r}")
    return shop.notes.saw("slow reader")


def flood(shop: Shop):
    """More at once than the queue has places."""
    def one(number: int):
        body = {**bodies[number], "max_tokens": 120, "ignore_eos": True}
        with shop.wire.connect() as connection:
            connection.sendall(request(shop.keys[["till", "kiosk", "batch"][number % 3]], body, connection="close"))
            return b"".join(iter(lambda: connection.recv(65536), b""))

    bodies = [shop.body(stream=number % 2 == 0) for number in range(FLOOD)]
    with ThreadPoolExecutor(FLOOD) as crowd:
        answers = list(crowd.map(one, range(FLOOD)))
    for answer in answers:
        shop.notes.answered()
        if (code := status(answer)) in {200, *BUSY}:
            shop.notes.saw(f"flood: {code}")
        else:
            shop.notes.wonder(f"flood: {answer[:300]!r}")
    time.sleep(20)


def structured(shop: Shop):
    """Schemas that nobody has sent before, and some that are known."""
    name = shop.dice.choice(WORDS) if shop.dice.random() < 0.5 else f"{shop.dice.choice(WORDS)}_{shop.dice.getrandbits(32):x}"
    schema = {"type": "object", "properties": {name: {"type": "integer"}, "known": {"type": "boolean"}}, "required": [name, "known"], "additionalProperties": False}
    with shop.wire.sdk(shop.keys["till"]) as client:
        try:
            answer = client.chat.completions.create(**shop.body(max_tokens=100, response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}))
        except openai.APIStatusError as error:
            return shop.refused("structured", error)
    shop.notes.answered()
    if set(json.loads(answer.choices[0].message.content)) == {name, "known"}:
        return shop.notes.saw("structured")
    return shop.notes.wonder(f"structured: {answer.choices[0].message.content}")


def deadlines(shop: Shop):
    with shop.wire.sdk(shop.keys["kiosk"]) as client:
        try:
            client.chat.completions.create(**shop.body(max_tokens=400, extra_body={"ignore_eos": True}, extra_headers={"x-deadline-ms": str(shop.dice.choice([20, 500, 5000, 30000]))}))
        except openai.APIStatusError as error:
            return shop.refused("deadline", error)
        finally:
            time.sleep(0.2)
    shop.notes.answered()
    return shop.notes.saw("deadline: 200")


def responses(shop: Shop):
    """A conversation that the server keeps; of others it may have let go."""
    with shop.wire.sdk(shop.keys["till"]) as client:
        try:
            first = client.responses.create(model="kiosk", input="Where is the coffee?", max_output_tokens=30)
            client.responses.create(model="kiosk", input="And the tea?", previous_response_id=first.id, max_output_tokens=30)
            if shop.dice.random() < 0.5:
                client.responses.delete(first.id)
        except openai.APIStatusError as error:
            if error.status_code not in {400, 404, *BUSY}:
                return shop.notes.wonder(f"responses: {error.status_code} {error}")
            return shop.notes.saw(f"responses: {error.status_code}")
    return shop.notes.saw("responses")


def limited(shop: Shop):
    """A tablet that asks more than its key may."""
    with shop.wire.sdk(shop.keys["tablet"]) as client:
        try:
            client.chat.completions.create(**shop.body(max_tokens=8))
        except openai.APIStatusError as error:
            return shop.refused("limited", error)
        finally:
            time.sleep(0.5)
    shop.notes.answered()
    return shop.notes.saw("limited: 200")


def guest(shop: Shop):
    """The key of this one is rotated and at last revoked while it asks."""
    with shop.wire.sdk(shop.keys["guest"]) as client:
        try:
            client.chat.completions.create(**shop.body(max_tokens=8))
        except openai.APIStatusError as error:
            return shop.refused("guest", error, {401, *BUSY})
        finally:
            time.sleep(0.2)
    shop.notes.answered()
    return shop.notes.saw("guest: 200")


def garbage(shop: Shop):
    """What is no HTTP, and with TLS no handshake."""
    connection = shop.wire.bare() if shop.dice.random() < 0.5 else shop.wire.connect()
    with connection:
        connection.sendall(shop.dice.randbytes(shop.dice.randrange(1, 4000)) + b"\r\n\r\n")
        try:
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
    if answer.startswith(b"HTTP/1.1") and status(answer) not in (400, 414, 431):
        return shop.notes.wonder(f"garbage: {answer[:200]!r}")
    time.sleep(0.2)
    return shop.notes.saw("garbage")


def healthy(shop: Shop):
    """What an orchestrator asks each second: it may be too busy for more, but it must work."""
    with httpx.Client(base_url=shop.wire.url, verify=shop.wire.context or True, timeout=60) as http:
        health, ready = http.get("/health"), http.get("/ready")
    time.sleep(1)
    if health.status_code == 200 and ready.status_code in (200, 503):
        return shop.notes.saw(f"ready: {ready.status_code}")
    return shop.notes.wonder(f"healthy: {health.status_code} {health.text} {ready.status_code} {ready.text}")


#: How many of each are there at once.
CROWD: dict[Callable[[Shop], None], int] = {
    whole_stream: 3, cancelled_stream: 2, vanished: 2, half_closed: 1, silent: 2, slow_reader: 2, flood: 1, structured: 1, deadlines: 1, responses: 1, limited: 1, guest: 1,
    garbage: 1, healthy: 1,
}
#: What must have happened in a soak that is long enough, or it has not tried what it says.
WANTED = {"whole stream", "cancelled stream", "vanished", "half closed", "silent", "slow reader", "flood: 200", "flood: 503", "structured", "deadline: 200", "deadline: 503",
          "responses", "limited: 200", "limited: 429", "guest: 200", "guest: 401", "garbage", "ready: 200"}


class Crowd:
    """All of them, until the end."""

    def __init__(self, wire: Wire, keys: dict[str, str], notes: Notes):
        self.over = threading.Event()
        visits = [visit for visit, count in CROWD.items() for _ in range(count)]
        self.threads = [threading.Thread(target=self._come_again, args=(visit, Shop(wire, keys, notes, seed)), name=visit.__name__) for seed, visit in enumerate(visits)]

    def _come_again(self, visit: Callable[[Shop], None], shop: Shop):
        while not self.over.is_set():
            try:
                visit(shop)
            except Exception as error:  # noqa: BLE001 - one client's surprise must not end the soak, and must be told
                shop.notes.wonder(f"{visit.__name__}: {type(error).__name__}: {error}")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(180)
