"""Runs a command while a server is up and ends with its exit code.

usage: while_serving.py COMMAND...   (the word URL in the command becomes the server's address)
"""

import subprocess
import sys

from gateway import gateway

if __name__ == "__main__":
    with gateway() as server:
        command = [f"http://127.0.0.1:{server.port}" if word == "URL" else word for word in sys.argv[1:]]
        sys.exit(subprocess.run(command, check=False).returncode)
