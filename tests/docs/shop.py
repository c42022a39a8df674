"""The box that the pages tell of, in a temporary folder: its files and its servers."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import box
from adapters import adapter
from gateway import BINARY, EMBEDDER, MODEL, ROOT, Gateway, environment, gateway, run_edgellm

#: Folders of a box, which are there before an example makes them.
FOLDERS = ("/opt/edgellm", "/var/lib/edgellm", "/run/edgellm", "/etc/edgellm", "/srv/models", "/usr/local/bin")

CONFIG = """
[pool]
models_dir = "{more}"

[governor]
rehearsal_dir = "{run}"

[[models]]
id = "kiosk"
path = "{model}"
context = 8192

[[models]]
id = "minilm"
path = "{embedder}"

[[models]]
id = "shop"
path = "{model}"
context = 2048

[[models]]
id = "large"
path = "{model}"
context = 2048
preload = false
"""


class Shop:
    """`workspace` looks like a checkout in which `./run.sh` was run; examples are run in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.workspace = folder / "workspace"
        self.servers: dict[str, Gateway] = {}
        self.stack = ExitStack()

    def __enter__(self):
        self.lay_out()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def lay_out(self):
        checkout = self.workspace
        (checkout / "target/release").mkdir(parents=True)
        (checkout / "target/release/edgellm").symlink_to(BINARY)
        (checkout / "target/tools/python/bin").mkdir(parents=True)
        # Not a link: what Python imports depends on where it was started from.
        python = checkout / "target/tools/python/bin/python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        for name in ("config", "models", "deploy", "grafana", "Cargo.toml", "Cargo.lock"):
            (checkout / name).symlink_to(ROOT / name)
        shutil.copy(MODEL, checkout / "my.gguf")
        # An example fails when the server answers it with an error.
        (self.folder / ".curlrc").write_text("fail-with-body\n")
        for folder in FOLDERS:
            self.box(folder).mkdir(parents=True)
        for name, model in (("shop", MODEL), ("large", MODEL), ("minilm", EMBEDDER)):
            self.box(f"/srv/models/{name}.gguf").symlink_to(model)
        # What the package puts there, and the file that the site writes.
        self.box("/opt/edgellm/bin").mkdir()
        self.box("/opt/edgellm/bin/edgellm").symlink_to(BINARY)
        self.box("/opt/edgellm/config").symlink_to(ROOT / "config")
        variables = ("EDGELLM__SERVER__LISTEN=0.0.0.0:8080", f"EDGELLM__AUTH__KEYS_FILE={self.box('/var/lib/edgellm/keys.toml')}")
        self.box("/etc/edgellm/edgellm.env").write_text("".join(f"{variable}\n" for variable in variables))
        self.box("/etc/edgellm/edgellm.toml").write_text(f'[[models]]\nid = "shop"\npath = "{MODEL}"\n')
        for file in ("/srv/models/adapters/loyalty.gguf", "/srv/models/more/spring.gguf"):
            self.box(file).parent.mkdir(exist_ok=True)
            adapter(self.box(file), 0.0)

    def box(self, path: str) -> Path:
        """Where a folder or file of the box lies in the test."""
        return box.path(self.folder / "box", path)

    def f16(self) -> None:
        """The file with F16 weights that an example makes a smaller one of."""
        file = self.workspace / "my-f16.gguf"
        if not file.exists():
            made = run_edgellm("models", "quantize", MODEL, file, "--type", "F16", "--allow-requantize", seconds=120)
            assert made.returncode == 0, made.stderr
        (self.workspace / "my.gguf").unlink(missing_ok=True)

    def server(self, kind: str) -> Gateway:
        """The server of this kind, started when it is first asked for."""
        if kind not in self.servers:
            self.servers[kind] = self.stack.enter_context(self.start(kind))
        return self.servers[kind]

    def start(self, kind: str):
        config = self.folder / f"{kind}.toml"
        config.write_text(CONFIG.format(more=self.box("/srv/models/more"), run=self.box("/run/edgellm"), model=MODEL, embedder=EMBEDDER))
        match kind:
            case "shop":
                return gateway("--config", config)
            case "rehearsal":
                return gateway(env={"EDGELLM__GOVERNOR__ENABLED": "true", "EDGELLM__GOVERNOR__REHEARSAL_DIR": str(self.box("/run/edgellm"))})
            case "other":
                return gateway()
            case _:
                raise AssertionError(f"no such server: {kind}")

    def here(self, text: str, kind: str = "shop") -> str:
        """An example with the ports and folders of the test. An address that is a value of a setting stays as it is."""
        for port, server in (("8080", kind), ("8081", "other")):
            url = re.compile(rf"(//[\w.-]+):{port}\b")
            if url.search(text):
                text = url.sub(rf"\1:{self.server(server).port}", text)
        for name in ("gateway:", "the-box:"):
            text = text.replace(f"//{name}", "//127.0.0.1:")
        return box.here(self.folder / "box", text)

    def environment(self) -> dict[str, str]:
        path = f"{self.workspace / 'target/release'}:{os.environ['PATH']}"
        return {**environment(None), "PATH": path, "CURL_HOME": str(self.folder)}

    def run(self, command: list[str], seconds: float = 120, cwd: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=cwd or self.workspace,
                              env=self.environment(), stdin=subprocess.DEVNULL, check=False)
