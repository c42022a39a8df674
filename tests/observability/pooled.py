"""A server that has several models, of which not all are loaded. They are copies of the shipped one under other names, so that they
load in no time."""

import json
from pathlib import Path

from gateway import MODEL, Gateway, wait_until


def config(folder: Path, budget: int | None = None) -> Path:
    """`kiosk` is pinned; `spare` and `other` are loaded when they are asked for, and `torn` cannot be."""
    torn = folder / "torn.gguf"
    torn.write_bytes(MODEL.read_bytes()[:4000])
    lines = [f"[pool]\nmemory_budget = {budget}"] if budget else []
    settings = {
        "kiosk": 'aliases = ["gpt-4o*"]\ndefault = true\npinned = true\ncontext = 2048\nmax_running = 2',
        "spare": 'siblings = ["kiosk"]\npreload = false\ncontext = 2048\nmax_running = 2',
        "other": "preload = false\ncontext = 2048\nmax_running = 2",
        "torn": "preload = false",
    }
    for model, text in settings.items():
        path = torn if model == "torn" else MODEL
        lines.append(f'[[models]]\nid = "{model}"\npath = "{path}"\n{text}')
    file = folder / "pool.toml"
    file.write_text("\n\n".join(lines) + "\n")
    return file


def pool(server: Gateway) -> dict:
    """What an administrator is told."""
    return server.http("GET", "/models").json()


def state(server: Gateway, model: str) -> str:
    [found] = [entry for entry in pool(server)["data"] if entry["id"] == model]
    return found["edgellm"]["state"]


def change(server: Gateway, action: str, model: str, becomes: str):
    """Has a model loaded or unloaded; returns as soon as that is done."""
    answer = server.http("POST", f"/models/{action}", json.dumps({"model": model}), {"content-type": "application/json"})
    assert answer.status == 200, answer.text
    wait_until(lambda: state(server, model) == becomes, f"{model} is {becomes}")
