"""Where it listens: several addresses, a Unix socket, a listener of operators, and sockets that systemd hands over."""

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time

import httpx
import pytest
from gateway import BINARY, CONFIG, ROOT, Gateway, ask, environment, free_port, gateway, open_stream, run_edgellm, wait_until
from openai import OpenAI


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, dict | str]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text.startswith("{") else text
    finally:
        connection.close()


def test_every_address_of_a_list_is_served_also_of_the_other_family():
    second = free_port()
    with gateway(host=f"[::1]:{second}, 127.0.0.1") as server:
        assert get(second, "/ready", "::1") == (200, {"status": "ready"})
        assert f"http://[::1]:{second}" in server.log_text()
        assert server.chat(max_tokens=3).status == 200


def test_an_address_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_edgellm("serve", "--config", CONFIG, "--listen", f"127.0.0.1:0,127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in done.stdout + done.stderr
    assert "another program uses this port" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def over_unix(tmp_path_factory):
    path = tmp_path_factory.mktemp("socket") / "edgellm.sock"
    with gateway(env={"EDGELLM__SERVER__UNIX_SOCKET": str(path)}) as server:
        yield server, path
        assert server.stop() == 0, server.log_text()
        assert not path.exists(), "its file goes with it"


def test_the_sdk_asks_and_streams_over_a_unix_socket(over_unix):
    server, path = over_unix
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    transport = httpx.HTTPTransport(uds=str(path))
    with OpenAI(base_url="http://localhost/v1", api_key="unused", max_retries=0, http_client=httpx.Client(transport=transport)) as client:
        answer = client.chat.completions.create(model="kiosk", messages=ask("Where is the coffee?"), temperature=0)
        stream = client.chat.completions.create(model="kiosk", messages=ask("Where is the coffee?"), temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content
    assert f"unix:{path}" in server.log_text()


def request(body: dict) -> bytes:
    text = json.dumps(body)
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()


LONG = {"model": "kiosk", "messages": ask("Where is the coffee?"), "ignore_eos": True, "max_tokens": 1500}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behind", [b"", b"\r\n"], ids=["", "with a stray line break"])
def test_a_program_that_leaves_a_unix_socket_is_noticed(over_unix, stream, behind):
    server, path = over_unix
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request({**LONG, "stream": stream}) + behind)
        wait_until(lambda: server.metric("edgellm_requests_running") == 1, "it runs")
    left = time.monotonic()
    wait_until(lambda: server.metric("edgellm_requests_running") == 0, "it has ended", 10)
    assert time.monotonic() - left < 3


def test_a_program_that_closes_its_own_side_gets_its_answer_over_a_unix_socket(over_unix):
    _, path = over_unix
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request({"model": "kiosk", "messages": ask("Where is the coffee?"), "max_tokens": 400, "ignore_eos": True}))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert b"HTTP/1.1 200 OK" in answer, answer


def test_a_socket_of_a_killed_process_is_replaced_and_one_in_use_is_not(tmp_path):
    path = tmp_path / "edgellm.sock"
    env = {"EDGELLM__SERVER__UNIX_SOCKET": str(path)}
    killed = Gateway(env=env)
    killed.wait_ready()
    killed.process.kill()
    killed.process.wait()
    assert path.exists()
    with gateway(env=env):
        done = run_edgellm("serve", "--config", CONFIG, "--listen", "127.0.0.1:0", env=env)
        assert done.returncode == 1
        assert "another program uses this socket" in done.stdout + done.stderr


def test_a_unix_socket_alone_will_do(tmp_path):
    path = tmp_path / "edgellm.sock"
    process = subprocess.Popen([BINARY, "serve", "--config", CONFIG, "--listen", ""], cwd=ROOT, stdin=subprocess.DEVNULL,
                               env=environment({"EDGELLM__SERVER__UNIX_SOCKET": str(path)}), stdout=subprocess.DEVNULL)
    try:
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport) as client:
            def ready():
                try:
                    return client.get("http://localhost/ready").status_code == 200
                except httpx.TransportError:
                    return False
            wait_until(ready, "it is ready", 60)
    finally:
        process.terminate()
        assert process.wait(30) == 0
    done = run_edgellm("check-config", "--config", CONFIG, env={"EDGELLM__SERVER__LISTEN": ""})
    assert done.returncode == 2
    assert "`server.listen` is empty; it must be an address while there is no server.unix_socket" in done.stderr


OPERATORS = ("/metrics", "/", "/page/main.js", "/models")
EVERYBODYS = ("/health", "/ready", "/v1/models", "/openapi.json")


def test_operators_have_a_listener_of_their_own_and_come_in_however_many_clients_there_are():
    admin = free_port()
    env = {"EDGELLM__SERVER__ADMIN_LISTEN": f"127.0.0.1:{admin}", "EDGELLM__SERVER__MAX_CONNECTIONS": "2",
           "EDGELLM__SERVER__MAX_CONNECTIONS_PER_ADDRESS": "2"}
    with gateway(env=env) as server:
        for path in OPERATORS:
            status, body = get(server.port, path)
            assert (status, body["error"]["code"]) == (404, "for_operators"), path
            assert "server.admin_listen" in body["error"]["message"]
            assert get(admin, path)[0] == 200
        for path in EVERYBODYS:
            assert get(server.port, path)[0] == get(admin, path)[0] == 200, path
        held = [open_stream(server), open_stream(server)]
        assert get(admin, "/metrics")[0] == 200
        for connection, _ in held:
            connection.close()


def test_a_trusted_proxy_has_as_many_connections_as_it_likes():
    few = {"EDGELLM__SERVER__MAX_CONNECTIONS_PER_ADDRESS": "2"}
    for proxies, served in (("", 2), ("127.0.0.0/8", 5)):
        with gateway(env={**few, "EDGELLM__SERVER__TRUSTED_PROXIES": proxies}) as server:
            held = [server.connect() for _ in range(5)]
            statuses = []
            for connection in held:
                connection.request("GET", "/health")
                statuses.append(connection.getresponse().status)
            assert statuses.count(200) == served, statuses
            for connection in held:
                connection.close()


class Systemd:
    """Does for a server what systemd does with socket units: holds the sockets, and hands them over at each start."""

    def __init__(self, **sockets: socket.socket):
        self.sockets = sockets

    def start(self, *arguments, env: dict[str, str] | None = None) -> Gateway:
        names, numbers = list(self.sockets), [one.fileno() for one in self.sockets.values()]

        def as_systemd_does():
            # From 3 on, in this order; first out of the way, because one may stand where another is to go.
            aside = [os.dup2(number, 100 + index) for index, number in enumerate(numbers)]
            for index, number in enumerate(aside):
                os.dup2(number, 3 + index, inheritable=True)

        server = Gateway.__new__(Gateway)
        first = self.sockets[names[0]]
        server.port, server.tls = (first.getsockname()[1] if first.family == socket.AF_INET else 0), None
        server.log = tempfile.TemporaryFile()
        told = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        # LISTEN_PID is the child's own number, which it alone can say.
        command = ["sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh", str(BINARY), "serve", "--config", str(CONFIG), *arguments]
        server.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=server.log, stderr=server.log, cwd=ROOT, close_fds=False,
                                          preexec_fn=as_systemd_does, env=environment({**told, **(env or {})}))
        return server


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)) -> socket.socket:
    one = socket.socket(family)
    one.bind(address)
    one.listen(1024)
    return one


def test_a_restart_with_systemds_socket_refuses_nobody_and_ends_no_stream():
    systemd = Systemd(clients=listening())
    server = systemd.start()
    server.wait_ready()
    ending, outcomes = threading.Event(), []

    def keep_asking(reuses: bool):
        with httpx.Client(base_url=server.base_url, timeout=60, limits=httpx.Limits(max_keepalive_connections=1 if reuses else 0)) as client:
            while not ending.is_set():
                answer = client.post("/chat/completions", json={"model": "kiosk", "messages": ask("Where is the coffee?"), "max_tokens": 5})
                outcomes.append(answer.status_code)
                # As a kiosk, which does not ask all the time.
                ending.wait(0.05)

    def stream_on(results: list):
        while not ending.is_set():
            with httpx.Client(base_url=server.base_url, timeout=60) as client, client.stream("POST", "/chat/completions", json={**LONG, "max_tokens": 300, "stream": True}) as response:
                text = response.read().decode()
            results.append((response.status_code, '"finish_reason":"length"' in text and "[DONE]" in text))

    streams: list = []
    clients = [threading.Thread(target=keep_asking, args=(reuses,)) for reuses in (True, False, False)]
    clients += [threading.Thread(target=stream_on, args=(streams,)) for _ in range(2)]
    failed = []
    threading.excepthook = lambda hooked: failed.append(hooked.exc_value)
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            wait_until(lambda served=len(outcomes): len(outcomes) > served + 5, "clients are served", 60)
            old = server
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(60) == 0, old.log_text()
            server = systemd.start()
        wait_until(lambda served=len(outcomes): len(outcomes) > served + 5, "clients are served again", 60)
    finally:
        ending.set()
        for client in clients:
            client.join(60)
        threading.excepthook = threading.__excepthook__
        assert server.stop() == 0, server.log_text()
    assert not failed, failed
    assert set(outcomes) == {200} and len(outcomes) > 20, outcomes
    assert streams and all(stream == (200, True) for stream in streams), streams


def test_systemds_sockets_are_told_apart_by_their_names(tmp_path):
    path = str(tmp_path / "clients.sock")
    systemd = Systemd(clients=listening(), local=listening(socket.AF_UNIX, path), admin=listening())
    server = systemd.start("--listen", "127.0.0.1:1")
    try:
        server.wait_ready()
        admin = systemd.sockets["admin"].getsockname()[1]
        assert get(server.port, "/metrics")[0] == 404
        assert get(admin, "/metrics")[0] == 200
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as client:
            assert client.get("http://localhost/ready").status_code == 200
    finally:
        assert server.stop() == 0, server.log_text()
    assert os.path.exists(path), "it is systemd's"


def test_a_socket_of_systemd_is_not_opened_to_the_network_without_keys():
    server = Systemd(clients=listening(address=("0.0.0.0", 0))).start()
    assert server.process.wait(30) == 2, "systemd does not try again"
    assert "is reached from the network, and there are no keys: set auth.keys_file" in server.log_text()
    server.log.close()
