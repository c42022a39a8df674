"""How clients reach the server: plain or with TLS, by OpenAI's SDK or by a socket of their own that can behave badly."""

import json
import socket
import ssl
import struct
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from certificates import Certificates
from openai import OpenAI


@dataclass
class Wire:
    """Where the server is, and whom to trust; None is no TLS."""

    port: int
    certificates: Certificates | None

    def __post_init__(self):
        self.context = self.certificates.trusting() if self.certificates else None

    @property
    def url(self) -> str:
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.port}"

    @contextmanager
    def sdk(self, key: str):
        with httpx.Client(verify=self.context or True, timeout=120) as http, OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http) as client:
            yield client

    def bare(self, *, receives: int | None = None) -> socket.socket:
        """A TCP connection, and nothing on it yet."""
        connection = socket.socket()
        if receives:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        connection.settimeout(120)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def connect(self, **options) -> socket.socket:
        connection = self.bare(**options)
        return self.context.wrap_socket(connection, server_hostname="127.0.0.1") if self.context else connection

    def is_newest_served(self) -> bool:
        """Whether a new connection gets the newest certificate."""
        with self.connect() as connection:
            return connection.getpeercert(binary_form=True) == self.certificates.newest


def request(key: str, body: dict, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """The bytes of a request; names of headers have _ for -."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {key}", "content-type: application/json", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def reset(connection: socket.socket):
    """Ends a connection as a device does that is switched off and on again: by RST, without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def status(head: bytes) -> int:
    """Of the first bytes of an answer, behind `100 Continue`s; 0 where it is not there."""
    while head.startswith(b"HTTP/1.1 100"):
        _, _, head = head.partition(b"\r\n\r\n")
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") and len(head) >= 12 else 0
