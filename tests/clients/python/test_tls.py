"""TLS: through OpenAI's SDK and bare sockets, with a certificate that is replaced while clients are served."""

import datetime
import http.client
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import trustme
from certificates import Certificates
from gateway import CONFIG, Gateway, ask, gateway, open_stream, run_edgellm, wait_until
from openai import OpenAI

DAY = datetime.timedelta(days=1)


def settings(files: Certificates, **further: str) -> dict[str, str]:
    """The variables of a server with these files."""
    return {**files.settings, **{f"EDGELLM__SERVER__{key.upper()}": value for key, value in further.items()}}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(files):
    with gateway(env=settings(files, header_timeout_seconds="2", write_timeout_seconds="2"), tls=files.trusting()) as running:
        yield running
        assert running.stop() == 0, running.log_text()
        assert "panicked" not in running.log_text()


def shake_hands(server: Gateway, context: ssl.SSLContext, **options) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20, **options)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def serial(server: Gateway) -> int:
    """Of the certificate that a new connection is shown."""
    with shake_hands(server, server.tls) as connection:
        return int(connection.getpeercert()["serialNumber"], 16)


def sdk(server: Gateway, context: ssl.SSLContext, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=60, http_client=httpx.Client(verify=context))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_sdk_asks_and_streams_over_tls(server, files, version):
    context = files.trusting()
    context.minimum_version = context.maximum_version = version
    with sdk(server, context) as client:
        answer = client.chat.completions.create(model="kiosk", messages=ask("Where is the coffee?"), temperature=0)
        assert "12" in answer.choices[0].message.content
        stream = client.chat.completions.create(model="kiosk", messages=ask("Where is the coffee?"), temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content


def test_older_versions_of_tls_are_refused(server, files):
    context = files.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake_hands(server, context)


def test_http_1_1_is_what_clients_get_that_offer_http_2(server, files):
    context = files.trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with shake_hands(server, context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_a_client_without_tls_is_told_so(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "kiosk"}))
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert (answer.status, error["code"]) == (400, "tls_required")
    assert "https://" in error["message"]


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00\x01", b"\x16"], ids=["nothing", "half a hello", "a byte"])
def test_who_does_not_end_its_handshake_is_ended(server, begin):
    before = server.metric("edgellm_tls_handshakes_total", 'result="timeout"')
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(begin)
        assert connection.recv(100) == b""
    assert 1 < time.monotonic() - began < 15
    assert server.metric("edgellm_tls_handshakes_total", 'result="timeout"') > before or begin == b""


def test_garbage_in_place_of_a_handshake_concerns_nobody_else(server):
    before = server.metric("edgellm_tls_handshakes_total", 'result="failed"')
    for garbage in (b"\x16\x03\x01\xff\xff" + b"\x00" * 1000, b"\x00" * 100, b"\x80\x2e\x01\x00\x02"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(garbage)
            connection.settimeout(10)
            try:
                while connection.recv(1000):
                    pass
            except ConnectionError:
                pass
    wait_until(lambda: server.metric("edgellm_tls_handshakes_total", 'result="failed"') > before, "it is counted")
    assert server.http("GET", "/ready").status == 200


def nobody_runs(server: Gateway) -> bool:
    return server.metric("edgellm_requests_running") == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["as TLS says", "without a word", "by a reset"])
def test_a_client_that_leaves_is_noticed(server, files, stream, how):
    wait_until(lambda: nobody_runs(server), "nobody is left")
    connection = shake_hands(server, files.trusting())
    body = json.dumps({"model": "kiosk", "messages": ask("Where is the coffee?"), "stream": stream, "ignore_eos": True, "max_tokens": 1500})
    # A stray line break behind the request, as some clients send: bytes that nobody reads.
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nhost: box\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}\r\n".encode())
    wait_until(lambda: not nobody_runs(server), "it runs")
    if how == "as TLS says":
        connection.settimeout(2)
        try:
            connection.unwrap()
        except OSError:
            pass
    if how == "by a reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    left = time.monotonic()
    connection.close()
    wait_until(lambda: nobody_runs(server), "the request has ended", 10)
    assert time.monotonic() - left < 3


def test_who_reads_nothing_is_ended_in_time(server):
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    plain.settimeout(20)
    plain.connect(("127.0.0.1", server.port))
    body = json.dumps({"prompt": "a" * 1_000_000, "return_token_strs": True})
    with server.tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(f"POST /tokenize HTTP/1.1\r\nhost: box\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        began = time.monotonic()

        def is_ended():
            try:
                connection.sendall(b"\r\n")
            except OSError:
                return True

        wait_until(is_ended, "it is ended", 20)
        assert time.monotonic() - began > 1.5


class Load:
    """Clients that ask without a pause, each time over a new connection, until told to stop."""

    def __init__(self, server: Gateway, clients: int):
        self.server, self.ending, self.served = server, threading.Event(), 0
        self.pool = ThreadPoolExecutor(clients)
        self.running = [self.pool.submit(self._ask) for _ in range(clients)]

    def _ask(self):
        while not self.ending.is_set():
            answer = self.server.chat("Where is the coffee?", max_tokens=8)
            assert answer.status == 200, answer.text
            self.served += 1

    def stop(self) -> int:
        """How many were served, of whom none was not."""
        self.ending.set()
        for client in self.running:
            client.result(60)
        return self.served


def test_a_certificate_is_replaced_under_load_and_open_streams_go_on(tmp_path):
    files = Certificates(tmp_path)
    with gateway(env=settings(files), tls=files.trusting()) as server:
        load = Load(server, 3)
        connection, stream = open_stream(server, max_tokens=1200)
        old = serial(server)
        for _ in range(3):
            files.replace()
            wait_until(lambda old=old: serial(server) != old, "new connections get the new certificate", 15)
            old = serial(server)
        assert stream.readline(), "it streams under the first certificate"
        connection.close()
        assert load.stop() > 10
        assert server.metric("edgellm_tls_reload_failed") == 0
        assert server.log_text().count("new connections get the certificate that was put in place") == 3


def test_a_whole_stream_outlasts_the_certificate_that_it_began_with(tmp_path):
    files = Certificates(tmp_path)
    with gateway(env=settings(files), tls=files.trusting()) as server, sdk(server, files.trusting()) as client:
        stream = client.chat.completions.create(model="kiosk", messages=ask("Where is the coffee?"), stream=True, max_tokens=1500,
                                                extra_body={"ignore_eos": True})
        first, old = next(stream), serial(server)
        files.replace()
        wait_until(lambda: serial(server) != old, "the new certificate is in use", 15)
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason == "length", (first, rest[-1])


def test_half_a_renewal_and_a_broken_one_change_nothing(tmp_path):
    files = Certificates(tmp_path)
    with gateway(env=settings(files), tls=files.trusting()) as server:
        old, key = serial(server), files.key.read_bytes()
        files.replace()
        new_key = files.key.read_bytes()
        files.key.write_bytes(key)
        wait_until(lambda: server.metric("edgellm_tls_reload_failed") == 1, "it is counted")
        assert serial(server) == old
        assert server.log_text().count("it is not the key of the certificate") == 1
        files.certificate.write_text("-----BEGIN CERTIFICATE-----\nMIIB")
        wait_until(lambda: "its PEM is broken" in server.log_text(), "it is told")
        files.certificate.unlink()
        wait_until(lambda: "No such file" in server.log_text(), "it is told")
        assert serial(server) == old
        files.replace()
        assert files.key.read_bytes() != new_key
        wait_until(lambda: serial(server) != old, "the right pair is taken", 15)
        assert server.metric("edgellm_tls_reload_failed") == 0


@pytest.mark.parametrize(("ends_in", "words"), [(10.5, "the certificate ends in 10 days"), (-1.5, "the certificate ended at")])
def test_a_certificate_that_ends_is_announced_and_served_on(tmp_path, ends_in, words):
    files = Certificates(tmp_path)
    end = datetime.datetime.now(datetime.UTC) + ends_in * DAY
    files.replace(not_before=end - 100 * DAY, not_after=end)
    careless = files.trusting()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with gateway(env=settings(files), tls=careless) as server:
        wait_until(lambda: words in server.log_text(), "the log says so")
        assert abs(server.metric("edgellm_tls_certificate_expiry_timestamp_seconds") - end.timestamp()) < 2
        if ends_in < 0:
            with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
                shake_hands(server, files.trusting())
        else:
            shake_hands(server, files.trusting()).close()


@pytest.mark.parametrize(("wrong", "words"), [
    ({"tls_key": "{folder}/none.pem"}, "server.tls_key {folder}/none.pem: cannot be read: No such file"),
    ({"tls_key": "{folder}/server.pem"}, "holds no private key"),
    ({"tls_cert": "{folder}/server-key.pem"}, "there is no certificate"),
    ({"tls_key": ""}, "`server.tls_key` is empty; it must be the file with the private key"),
    ({"tls_require_client": "true"}, "`server.tls_require_client` is true"),
    ({"tls_client_ca": "{folder}/server.pem"}, "auth.keys_file"),
])
def test_files_that_cannot_be_used_are_named_at_the_start(files, wrong, words):
    folder = files.certificate.parent
    changed = {key: value.format(folder=folder) for key, value in wrong.items()}
    done = run_edgellm("serve", "--config", CONFIG, "--listen", "127.0.0.1:0", env=settings(files, **changed))
    assert done.returncode in (1, 2)
    assert words.format(folder=folder) in done.stdout + done.stderr


@pytest.mark.parametrize("requires", [False, True])
def test_certificates_of_clients_are_asked_for_and_only_those_of_the_authority_are_good(tmp_path, requires):
    files = Certificates(tmp_path)
    clients = trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    keys = {} if requires else {"EDGELLM__AUTH__KEYS_FILE": str(tmp_path / "keys.toml")}
    env = settings(files, tls_client_ca=str(tmp_path / "clients.pem"), tls_require_client=str(requires).lower())
    presenting, foreign = files.trusting(), files.trusting()
    clients.issue_cert("till-1@shop.lan", common_name="till-1").configure_cert(presenting)
    trustme.CA().issue_cert("till-1@shop.lan", common_name="till-1").configure_cert(foreign)
    with gateway(env={**env, **keys}, tls=presenting) as server:
        assert server.http("GET", "/health").status == 200
        with pytest.raises((ssl.SSLError, ConnectionError)), shake_hands(server, foreign) as connection:
            # In TLS 1.3 the client hears of it with the first answer.
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: box\r\n\r\n")
            assert connection.recv(100)
        server.tls = files.trusting()
        if requires:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                server.http("GET", "/health")
        else:
            assert server.http("GET", "/health").status == 200


def test_a_certificate_stands_for_the_key_whose_subject_it_has(tmp_path):
    files, keys = Certificates(tmp_path), tmp_path / "keys.toml"
    clients = trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    added = run_edgellm("keys", "add", "admin", "--admin", "--file", keys).stdout.split()[-1]
    for arguments in (("till-1", "--subject", "till-1", "--no-key", "--requests-per-minute", "3"), ("metrics", "--subject", "CN=prometheus", "--no-key", "--admin")):
        assert run_edgellm("keys", "add", *arguments, "--file", keys).returncode == 0

    def presenting(name: str) -> ssl.SSLContext:
        context = files.trusting()
        clients.issue_cert(f"{name}@shop.lan", common_name=name).configure_cert(context)
        return context

    env = {**settings(files, tls_client_ca=str(tmp_path / "clients.pem")), "EDGELLM__AUTH__KEYS_FILE": str(keys)}
    with gateway(env=env, tls=files.trusting()) as server:
        assert server.chat().error()["code"] == "missing_api_key"
        server.tls = presenting("till-1")
        answer = server.chat(max_tokens=3)
        assert (answer.status, answer.headers["x-ratelimit-limit-requests"]) == (200, "3")
        # An SDK sends a key in any case.
        with sdk(server, server.tls, "unused") as client:
            assert client.models.list().data[0].id == "kiosk"
        assert server.http("GET", "/metrics").error()["code"] == "admin_only"
        assert server.http("GET", "/metrics", headers={"authorization": f"Bearer {added}"}).status == 200
        server.tls = presenting("till-2")
        error = server.chat().error()
        assert error["code"] == "unknown_certificate" and "till-2" in error["message"], error
        server.tls = presenting("prometheus")
        # Its subject has more parts than the common name.
        assert server.http("GET", "/metrics").status == 401
        server.tls = presenting("till-1")
        assert run_edgellm("keys", "revoke", "till-1", "--file", keys).returncode == 0
        wait_until(lambda: server.chat(max_tokens=1).status == 401, "a stolen till's certificate is worth nothing")
        assert any('"key":"till-1"' in line for line in server.log_text().splitlines())


def test_a_client_that_says_that_it_leaves_and_keeps_the_connection_is_noticed(server, files):
    wait_until(lambda: nobody_runs(server), "nobody is left")
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection = files.trusting().wrap_socket(plain, server_hostname="127.0.0.1")
    body = json.dumps({"model": "kiosk", "messages": ask("Where is the coffee?"), "ignore_eos": True, "max_tokens": 1500})
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nhost: box\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    wait_until(lambda: not nobody_runs(server), "it runs")
    left = time.monotonic()
    # As asyncio does: it says good-bye in TLS, and waits for the other side before it closes.
    connection.settimeout(0)
    try:
        connection.unwrap()
    except (ssl.SSLWantReadError, OSError):
        pass
    wait_until(lambda: nobody_runs(server), "the request has ended", 10)
    assert time.monotonic() - left < 3
    connection.close()


def test_a_certificate_of_a_client_that_ends_is_worth_nothing_from_then_on(tmp_path):
    files, clients = Certificates(tmp_path), trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    presenting = files.trusting()
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=8)
    clients.issue_cert("till-1@shop.lan", common_name="till-1", not_after=ends).configure_cert(presenting)
    env = settings(files, tls_client_ca=str(tmp_path / "clients.pem"), tls_require_client="true")
    with gateway(env=env, tls=presenting) as server:
        connection = server.connect()

        def status() -> int:
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status() == 200
        assert connection.sock.session is None or not connection.sock.session.has_ticket
        session = connection.sock.session
        wait_until(lambda: status() == 401, "the open connection is worth nothing", 20)

        def is_shut_out() -> bool:
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as again:
                try:
                    resumed = presenting.wrap_socket(again, server_hostname="127.0.0.1", session=session)
                    resumed.sendall(b"GET /health HTTP/1.1\r\nhost: box\r\n\r\n")
                    return not resumed.recv(100)
                except (ssl.SSLError, ConnectionError):
                    return True

        # In certificates time has whole seconds.
        wait_until(is_shut_out, "nor is a session that it had", 5)
        connection.close()
        # It still ends in order, and nobody is let in to look.
        server.tls = None
