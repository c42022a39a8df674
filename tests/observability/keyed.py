"""A server that has API keys."""

from contextlib import contextmanager
from pathlib import Path

from certificates import Certificates
from gateway import Gateway, gateway, run_edgellm, wait_until


class KeyedGateway:
    """A running server, its keys file, and the key of its first administrator."""

    def __init__(self, server: Gateway, file: Path):
        self.server, self.file = server, file
        self.admin = server.key = file.with_name("first-admin-key").read_text().strip()

    def status(self, key: str, path: str = "/v1/models") -> int:
        return self.server.http("GET", path, headers={"authorization": f"Bearer {key}"}).status

    def add(self, name: str, *flags: str) -> str:
        """A new key, as soon as the server takes it."""
        key = self._keys("add", name, *flags).splitlines()[-1]
        wait_until(lambda: self.status(key) == 200, f"the key {name} is good")
        return key

    def add_expired(self, name: str) -> str:
        key = self._keys("add", name, "--expires", "2020-01-31").splitlines()[-1]
        wait_until(lambda: "expired" in self.server.http("GET", "/v1/models", headers={"authorization": f"Bearer {key}"}).error()["message"], f"the key {name} is known")
        return key

    def revoke(self, name: str, key: str):
        """Ends a key; returns as soon as the server refuses it."""
        self._keys("revoke", name)
        wait_until(lambda: self.status(key) == 401, f"the key {name} is refused")

    def _keys(self, *arguments: str) -> str:
        done = run_edgellm("keys", *arguments, "--file", self.file)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def keyed_gateway(folder: Path, *arguments: str, env: dict[str, str] | None = None, tls: Certificates | None = None):
    """A box that is new: it makes its first key by itself. That key is what the server's helpers ask with."""
    file = folder / "keys.toml"
    settings = {"EDGELLM__AUTH__KEYS_FILE": str(file), **(env or {}), **(tls.settings if tls else {})}
    with gateway(*arguments, env=settings, tls=tls.trusting() if tls else None) as server:
        yield KeyedGateway(server, file)
