"""A server that has API keys."""

from contextlib import contextmanager
from pathlib import Path

from gateway import Gateway, gateway, run_edgellm, wait_until


class KeyedGateway:
    """A running server, its keys file, and the key of its first administrator."""

    def __init__(self, server: Gateway, file: Path):
        self.server, self.file = server, file
        self.admin = file.with_name("first-admin-key").read_text().strip()

    def status(self, key: str, path: str = "/v1/models") -> int:
        return self.server.http("GET", path, headers={"authorization": f"Bearer {key}"}).status

    def add(self, name: str, *flags: str) -> str:
        """A new key, as soon as the server takes it."""
        key = self._keys("add", name, *flags).splitlines()[-1]
        wait_until(lambda: self.status(key) == 200, f"the key {name} is good")
        return key

    def add_expired(self, name: str) -> str:
        key = self._keys("add", name, "--expires", "2020-01-31").splitlines()[-1]
        wait_until(lambda: "expired" in self.server.http("GET", "/v1/models", headers={"x-api-key": key}).error()["message"], f"the key {name} is known")
        return key

    def revoke(self, name: str, key: str):
        """Ends a key; returns as soon as the server refuses it."""
        self._keys("revoke", name)
        wait_until(lambda: self.status(key) == 401, f"the key {name} is refused")

    def _keys(self, *arguments: str) -> str:
        done = run_edgellm("keys", *arguments, "--file", self.file)
        assert done.returncode == 0, done.stderr
        return done.stdout


def with_keys(file: Path) -> dict[str, str]:
    """The settings of a server with this keys file."""
    return {"EDGELLM__AUTH__KEYS_FILE": str(file)}


@contextmanager
def keyed_gateway(folder: Path, env: dict[str, str] | None = None):
    """A box that is new: it makes its first key by itself."""
    file = folder / "keys.toml"
    with gateway(env={**with_keys(file), **(env or {})}) as server:
        yield KeyedGateway(server, file)
