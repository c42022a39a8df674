"""The pool with models of others: mixed load within a budget, and memory that comes back."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from adapters import adapter
from gateway import EMBEDDER, MODEL, Gateway, ask, gateway, real_model, wait_until

pytestmark = pytest.mark.pool

MIB = 1 << 20
SECONDS = 40


def entry(id: str, path: Path, **settings) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["[[models]]", f'id = "{id}"', f'path = "{path}"', *lines, ""])


def anonymous(server: Gateway) -> int:
    """Bytes that the process has for itself."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


class Watch:
    """The most that the process had for itself while this was open."""

    def __init__(self, server: Gateway):
        self.server, self.most, self.over = server, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self):
        while not self.over.wait(0.02):
            self.most = max(self.most, anonymous(self.server))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def states(server: Gateway) -> dict[str, str]:
    return {model["id"]: model["edgellm"]["state"] for model in server.http("GET", "/models").json()["data"]}


def test_four_models_and_an_adapter_serve_mixed_load_within_a_budget_and_nothing_is_lost(tmp_path):
    budget = 900 * MIB
    config = tmp_path / "pool.toml"
    config.write_text("\n".join([
        f'[pool]\nmemory_budget = {budget}\n[scheduler]\nparked_bytes = {32 * MIB}\n[state]\npath = "{tmp_path / "state"}"\n',
        entry("kiosk", MODEL, pinned=True, default=True, adapters=[f"loyalty={adapter(tmp_path / 'loyalty.gguf', 1.0)}"]),
        entry("minilm", EMBEDDER, preload=False),
        entry("smol", real_model("smollm2"), preload=False, context=2048, max_running=4),
        entry("qwen", real_model("qwen"), preload=False, context=2048, max_running=4, aliases=["gpt-4o*"]),
    ]))
    with gateway("--config", config) as server:
        dice = random.Random(4)
        until = time.monotonic() + SECONDS

        def client(number: int) -> int:
            answered = 0
            while time.monotonic() < until:
                # Customers of one kiosk ask the same model for a while.
                model = dice.choice(["kiosk", "kiosk+loyalty", "minilm", "smol", "gpt-4o-mini", "nobody-has-this"])
                for _ in range(dice.randrange(1, 4)):
                    if model == "minilm":
                        answer = server.post("/v1/embeddings", {"model": model, "input": ["tea", "coffee"] * 8})
                    else:
                        body = {"model": model, "messages": ask("Where is the coffee?"), "max_tokens": 12}
                        answer = server.post("/v1/chat/completions", body)
                    assert answer.status == 200, answer.text
                    served = {"gpt-4o-mini": "qwen", "nobody-has-this": "kiosk"}.get(model, model)
                    assert answer.json()["model"] == served
                    answered += 1
            return answered

        with Watch(server) as watch, ThreadPoolExecutor(6) as clients:
            answered = sum(clients.map(client, range(6)))
        loads, evictions = server.metric("edgellm_model_loads_total"), server.metric("edgellm_pool_evictions_total")
        print(f"{answered} answers, {loads:.0f} loads, {evictions:.0f} evictions, at most {watch.most / MIB:.0f} of {budget / MIB:.0f} MiB")
        assert answered > 20
        assert loads > 4 and evictions > 1, "they do not fit together"
        assert watch.most <= budget


def test_an_unload_gives_back_what_the_load_has_taken_ten_times(tmp_path):
    config = tmp_path / "cycles.toml"
    config.write_text(entry("kiosk", MODEL, pinned=True) + entry("smol", real_model("smollm2"), preload=False, context=2048))
    with gateway("--config", config) as server:
        def reaches(state: str):
            wait_until(lambda: states(server)["smol"] == state, f"it is {state}", 120)

        def cycle() -> tuple[int, int]:
            before = anonymous(server)
            server.post("/models/load", {"model": "smol"})
            reaches("ready")
            added = anonymous(server) - before
            answer = server.post("/v1/chat/completions", {"model": "smol", "messages": ask("tea?"), "max_tokens": 4})
            assert answer.status == 200, answer.text
            server.post("/models/unload", {"model": "smol"})
            reaches("cold")
            return added, anonymous(server) - before

        cycle()  # Code, tables and threads that stay come with the first one.
        first = anonymous(server)
        added = 0
        for _ in range(10):
            added, kept = cycle()
            assert kept <= added / 20, f"of {added} bytes {kept} are kept"
        assert anonymous(server) - first <= added / 20, "nor does it grow"
        print(f"a load adds {added / MIB:.0f} MiB; ten loads left {(anonymous(server) - first) / MIB:.1f}")
