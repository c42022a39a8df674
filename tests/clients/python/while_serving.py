"""Runs a command while a server is up and ends with its exit code, or with 1 if the server did not end well.

usage: while_serving.py COMMAND...   ("URL" in the command becomes the server's address)
"""

import subprocess
import sys

from gateway import gateway

if __name__ == "__main__":
    with gateway() as server:
        command = [word.replace("URL", f"http://127.0.0.1:{server.port}") for word in sys.argv[1:]]
        code = subprocess.run(command, check=False).returncode
        assert server.stop() == 0 and "panicked" not in server.log_text(), server.log_text()
        sys.exit(code)
