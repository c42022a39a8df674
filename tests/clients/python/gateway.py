"""Starts the real binary with the shipped model, talks plain HTTP to it, and stops it again."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import documented
import sse
from real_models import MODELS as REAL_MODELS

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("EDGELLM_BINARY", ROOT / "target/release/edgellm"))
MODEL = ROOT / "models/kiosk/kiosk.gguf"
EMBEDDER = Path(os.environ.get("EDGELLM_EMBEDDING_MODEL", ROOT / "target/tools/all-MiniLM-L6-v2.gguf"))
CONFIG = ROOT / "config/edgellm.toml"


def real_model(name: str) -> Path:
    """Where ./test.sh keeps a model out of real_models.py."""
    return Path(os.environ.get(f"EDGELLM_{name.upper()}", ROOT / "target/tools/models" / REAL_MODELS[name].file))


STORE = """You are the assistant of Harbour Corner Shop. Answer in one short sentence with facts from the list.
Products:
- Brindle Oat Bar: $2.49, aisle 7, 31 in stock
- Quarry Sparkling Water: $1.15, aisle 3, 120 in stock
- Velmont Ground Coffee: $8.90, aisle 12, 14 in stock
- Osprey Sun Lotion: $11.75, aisle 5, out of stock
Opening hours: 8:00 to 21:30
Wifi password: lantern-4471"""


def ask(question: str) -> list[dict]:
    """The messages of one customer's question."""
    return [{"role": "system", "content": STORE}, {"role": "user", "content": question}]


@dataclass
class Answer:
    """One HTTP response, read to its end."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self):
        return json.loads(self.text)

    def events(self) -> list[sse.Event]:
        return sse.read(self.text).events

    def error(self) -> dict:
        """The error object, after checking that the body has the one shape that every error has."""
        body = self.json()
        assert set(body) == {"error"}, body
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert isinstance(error["message"], str) and error["message"], error
        for secret in ("panicked", "/root", "/home", "/src/", ".rs:"):
            assert secret not in error["message"], error
        return error


def both_models(folder: Path) -> Path:
    """A configuration with the shipped model and all-MiniLM-L6-v2, which ./test.sh converts."""
    config = folder / "both.toml"
    config.write_text(f'[[models]]\npath = "{MODEL}"\n\n[[models]]\npath = "{EMBEDDER}"\nid = "minilm"\n')
    return config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what: str, seconds: float = 30.0):
    """Polls until `condition()` is true and returns its value; fails with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def environment(env: dict[str, str] | None) -> dict[str, str]:
    """Without settings of whoever runs the tests. What else runs on the machine is not what they are about."""
    ours = {key: value for key, value in os.environ.items() if not key.upper().startswith("EDGELLM__") and key != "RUNTIME_DIRECTORY"}
    return {**ours, "EDGELLM__GOVERNOR__ENABLED": "false", **(env or {})}


def run_edgellm(*arguments, env: dict[str, str] | None = None, seconds: float = 30.0) -> subprocess.CompletedProcess:
    """Runs the binary to its end."""
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=seconds,
                          stdin=subprocess.DEVNULL, env=environment(env))


class Gateway:
    """A running server."""

    key: str | None = None  # what requests carry, where no headers of their own say who asks
    tls: ssl.SSLContext | None = None  # whom clients trust, where it speaks TLS

    def __init__(self, *arguments, env: dict[str, str] | None = None, port: int | None = None, host: str = "127.0.0.1",
                 tls: ssl.SSLContext | None = None):
        self.port, self.tls = port or free_port(), tls
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [BINARY, "serve", "--config", CONFIG, "--listen", f"{host}:{self.port}", *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=ROOT, env=environment(env))

    @property
    def base_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, f"the server ended at start-up:\n{self.log_text()}"
            try:
                return self.http("GET", "/ready").status == 200
            except OSError:
                return False

        wait_until(ready, "the server is ready", 60)

    def log_text(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def credentials(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def http(self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body.encode() if isinstance(body, str) else body, {**self.credentials(), **(headers or {})})
            response = connection.getresponse()
            answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode())
        finally:
            connection.close()
        sent = body.encode() if isinstance(body, str) else body or b""
        documented.exchanged(method, path, sent, answer.status, answer.headers.get("content-type", ""), answer.text.encode())
        return answer

    def post(self, path: str, body: dict, headers: dict[str, str] | None = None) -> Answer:
        return self.http("POST", path, json.dumps(body), {"content-type": "application/json", **(headers or {})})

    def chat(self, question: str = "How much is the Brindle Oat Bar?", **parameters) -> Answer:
        return self.post("/v1/chat/completions", {"model": "kiosk", "messages": ask(question), **parameters})

    def metrics(self) -> str:
        return self.http("GET", "/metrics").text

    def metric(self, name: str, label: str = "") -> float:
        """The sum of one metric's samples, of those only that have this `key="value"` if one is given."""
        samples = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(float(value) for labels, value in samples if label in labels)

    def stop(self, seconds: float = 30.0) -> int:
        """Asks the server to end and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not end within {seconds:.0f} s of SIGTERM:\n{self.log_text()}") from None


@contextmanager
def gateway(*arguments, env: dict[str, str] | None = None, port: int | None = None, host: str = "127.0.0.1",
            tls: ssl.SSLContext | None = None):
    """A server of one test's own, ready for requests."""
    server = Gateway(*arguments, env=env, port=port, host=host, tls=tls)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()
        server.log.close()


def open_stream(server: Gateway, **parameters) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream that has begun and would go on for a long time."""
    connection = server.connect()
    body = {"model": "kiosk", "messages": ask("Where is the coffee?"), "stream": True, "ignore_eos": True, "max_tokens": 1000, **parameters}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json", **server.credentials()})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    while not (line := response.readline()).startswith(b"data: {"):
        assert line.startswith((b"id:", b":", b"\n")), line
    return connection, response


def events(response: http.client.HTTPResponse) -> list[str]:
    """The data of every server-sent event up to the end of the stream."""
    received = sse.read(response.read().decode()).events
    for event in received:
        documented.check_event("CreateChatCompletionStreamResponse", event)
    return [event.data for event in received]
