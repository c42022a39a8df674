"""A server that an example starts."""

import http.client
import ssl
import subprocess
import tempfile
from pathlib import Path

from gateway import wait_until


class Served:
    """It is a child of the tests, in their process group: whoever ends that ends the server, too."""

    def __init__(self, command: str, port: int, cwd: Path, env: dict[str, str], tls: ssl.SSLContext | None = None):
        """`command` is for bash, which has to become the server: it ends with an `exec`. `tls` is whom clients trust, where it speaks TLS."""
        self.port, self.tls = port, tls
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(["bash", "-euc", command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output)

    def __enter__(self):
        try:
            wait_until(self.is_ready, "the server is ready", 60)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        status = self.end()
        assert status == 0, f"the server ended with exit code {status}:\n{self.log()}"

    def log(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the server ended with exit code {self.process.returncode}:\n{self.log()}"
        try:
            return self.status("/ready") == 200
        except OSError:
            return False

    def status(self, path: str, key: str | None = None) -> int:
        """How it answers this path."""
        plain, tls = http.client.HTTPConnection, http.client.HTTPSConnection
        connection = tls("127.0.0.1", self.port, timeout=30, context=self.tls) if self.tls else plain("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
            return connection.getresponse().status
        finally:
            connection.close()

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
