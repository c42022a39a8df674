"""Nothing that the tests started outlives them."""

import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from gateway import ROOT, wait_until

MARK = "EDGELLM_DOCS_TEST"


def marked(mark: str) -> list[tuple[int, str]]:
    """All processes that have inherited the mark, wherever they are: their ids and command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}\0".encode() in (process / "environ").read_bytes():
                found.append((int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


@pytest.mark.parametrize(("end", "exit_code"), [
    (lambda tests: os.kill(tests, signal.SIGTERM), pytest.ExitCode.INTERRUPTED),
    (lambda tests: os.killpg(tests, signal.SIGTERM), pytest.ExitCode.INTERRUPTED),
    (lambda tests: os.killpg(tests, signal.SIGKILL), -signal.SIGKILL),
], ids=["pytest is asked to end", "its process group is asked to end", "its process group is killed"])
def test_no_server_outlives_the_tests(end, exit_code):
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/docs/test_examples.py", "-k", "does_what_it_says and keys"]
    tests = subprocess.Popen(command, cwd=ROOT, env={**os.environ, MARK: mark}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        # That of an example, which is not the one that other examples ask.
        wait_until(lambda: any(" serve --config config/edgellm.toml" in command for _, command in marked(mark)), "an example has started its server", 60)
        end(tests.pid)
        assert tests.wait(60) == exit_code
        wait_until(lambda: not marked(mark), f"no process is left, but these are: {marked(mark)}", 10)
    finally:
        for process, _ in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        tests.wait()
