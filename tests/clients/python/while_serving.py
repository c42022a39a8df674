"""Runs a command while a server is up and ends with its exit code, or with 1 if the server did not end well.

usage: while_serving.py [--embeds] COMMAND...   ("URL" in the command becomes the server's address)

With --embeds the server has an embedding model beside the shipped one.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import both_models, gateway

if __name__ == "__main__":
    arguments = sys.argv[1:]
    embeds = arguments[0] == "--embeds"
    with tempfile.TemporaryDirectory() as folder, gateway(*(["--config", both_models(Path(folder))] if embeds else [])) as server:
        command = [word.replace("URL", f"http://127.0.0.1:{server.port}") for word in arguments[embeds:]]
        code = subprocess.run(command, check=False).returncode
        assert server.stop() == 0 and "panicked" not in server.log_text(), server.log_text()
        sys.exit(code)
