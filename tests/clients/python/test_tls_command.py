"""Certificates that `edgellm tls` makes, tried with the TLS of other programs."""

import http.server
import re
import ssl
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from gateway import run_edgellm


def self_signed(folder: Path, *flags) -> str:
    made = run_edgellm("tls", "self-signed", "--output", folder, *flags)
    assert made.returncode == 0, made.stderr
    return made.stdout


def openssl(*arguments) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "tls"


class Ready(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b'{"status":"ready"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def https_server(folder: Path, client_ca: Path | None = None, host: str = "127.0.0.1"):
    """Python's own server, with the certificate of `folder`; returns its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer((host, 0), Ready)
    # A handshake that fails is the client's affair.
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def curl(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(["curl", "-s", "-m", "10", *map(str, arguments)], capture_output=True, text=True, timeout=20)


def node(ca: Path | None, url: str) -> subprocess.CompletedProcess:
    script = f"console.log(await (await fetch('{url}')).text())"
    env = {"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {}
    return subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=20, env={"PATH": "/usr/bin:/bin", **env})


def test_every_client_that_trusts_the_authority_takes_the_server_by_name_and_by_address(folder):
    self_signed(folder, "--name", "127.0.0.2")
    ca = folder / "ca.pem"
    with https_server(folder) as port:
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{port}/"
            asked = curl("--cacert", ca, url)
            assert asked.stdout == '{"status":"ready"}', asked.stderr
            context = ssl.create_default_context(cafile=ca)
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            assert httpx.get(url, verify=context).status_code == 200
            assert "ready" in node(ca, url).stdout
        assert curl(f"https://localhost:{port}/").returncode == 60, "nobody trusts it without the authority"
        assert "self-signed" in node(None, f"https://localhost:{port}/").stderr
        for version in ("--tlsv1.2", "--tlsv1.3"):
            assert curl("--cacert", ca, version, f"https://localhost:{port}/").returncode == 0
    with https_server(folder, host="127.0.0.2") as port:
        assert curl("--cacert", ca, f"https://127.0.0.2:{port}/").returncode == 0
    with https_server(folder, host="127.0.0.3") as port:
        assert curl("--cacert", ca, f"https://127.0.0.3:{port}/").returncode == 60, "not among its names"


def test_health_asks_over_tls_and_says_what_is_missing(folder):
    self_signed(folder)
    ca = folder / "ca.pem"
    with https_server(folder) as port:
        for arguments in ((f"https://localhost:{port}", "--ca", ca), (f"https://127.0.0.1:{port}",)):
            asked = run_edgellm("health", *arguments)
            assert (asked.returncode, asked.stdout) == (0, '{"status":"ready"}\n'), asked.stderr
        own = {"EDGELLM__SERVER__LISTEN": f"0.0.0.0:{port}", "EDGELLM__SERVER__TLS_CERT": "/c.pem", "EDGELLM__SERVER__TLS_KEY": "/k.pem",
               "EDGELLM__AUTH__OPEN": "true"}
        asked = run_edgellm("health", env=own)
        assert asked.returncode == 0, asked.stderr
        other = folder.parent / "other"
        self_signed(other)
        asked = run_edgellm("health", f"https://localhost:{port}", "--ca", other / "ca.pem")
        assert asked.returncode == 1 and "UnknownIssuer" in asked.stderr and "--ca" in asked.stderr, asked.stderr
        asked = run_edgellm("bench", f"https://localhost:{port}")
        assert asked.returncode == 2 and "--ca FILE" in asked.stderr, asked.stderr
        asked = run_edgellm("bench", f"https://localhost:{port}", "--ca", ca)
        assert asked.returncode == 1 and "does not list its models" in asked.stderr, asked.stderr
    asked = run_edgellm("health", "https://box.example.com")
    assert asked.returncode == 1 and "--ca FILE" in asked.stderr, asked.stderr
    asked = run_edgellm("health", "--ca", folder / "nothing.pem", "https://localhost")
    assert asked.returncode == 1 and "nothing.pem: cannot be read" in asked.stderr
    no_way = {**own, "EDGELLM__SERVER__TLS_CLIENT_CA": "/ca.pem", "EDGELLM__SERVER__TLS_REQUIRE_CLIENT": "true"}
    asked = run_edgellm("health", env=no_way)
    assert asked.returncode == 2 and "http://127.0.0.1:8080" in asked.stderr, asked.stderr


def test_a_client_proves_who_it_is_with_its_certificate(folder, tmp_path):
    self_signed(folder)
    made = run_edgellm("tls", "client", "till-1", "--output", folder)
    assert made.returncode == 0 and "edgellm keys add till-1 --subject till-1 --no-key" in made.stdout, made.stderr
    other = tmp_path / "other"
    self_signed(other)
    run_edgellm("tls", "client", "till-1", "--output", other)
    ca = folder / "ca.pem"
    with https_server(folder, client_ca=ca) as port:
        def asked(place: Path):
            return curl("--cacert", ca, "--cert", place / "till-1.pem", "--key", place / "till-1-key.pem", f"https://localhost:{port}/")

        assert asked(folder).stdout == '{"status":"ready"}'
        assert asked(other).returncode != 0, "of another authority"
        assert curl("--cacert", ca, f"https://localhost:{port}/").returncode != 0, "without a certificate"
        server = curl("--cacert", ca, "--cert", folder / "server.pem", "--key", folder / "server-key.pem", f"https://localhost:{port}/")
        assert server.returncode != 0, "a server's certificate is no client's"
        health = run_edgellm("health", f"https://localhost:{port}", "--ca", ca)
        assert health.returncode == 1 and "CertificateRequired" in health.stderr, health.stderr


def test_the_certificates_are_what_they_should_be_by_openssls_word(folder):
    self_signed(folder, "--name", "box.example.com", "--name", "10.0.0.5")
    run_edgellm("tls", "client", "till-1", "--output", folder)
    ca = folder / "ca.pem"
    for name, purpose in (("server", "sslserver"), ("till-1", "sslclient")):
        assert openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, folder / f"{name}.pem").endswith("OK\n")
        text = openssl("x509", "-in", folder / f"{name}.pem", "-noout", "-text")
        assert "prime256v1" in text and "CA:FALSE" in text and "Authority Key Identifier" in text
    text = openssl("x509", "-in", folder / "server.pem", "-noout", "-ext", "subjectAltName")
    for name in ("DNS:localhost", "DNS:box.example.com", "IP Address:127.0.0.1", "IP Address:10.0.0.5", "IP Address:0:0:0:0:0:0:0:1"):
        assert name in text, text
    text = openssl("x509", "-in", ca, "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text and "Certificate Sign, CRL Sign" in text


def test_a_renewed_certificate_is_of_the_same_authority_and_the_files_are_nobody_elses(folder):
    said = self_signed(folder, "--days", 30)
    assert "new, until" in said and "--name 10.0.0.5" in said
    assert f'tls_cert = "{folder}/server.pem"' in said and f'tls_key = "{folder}/server-key.pem"' in said
    assert "NODE_EXTRA_CA_CERTS" in said and "/usr/local/share/ca-certificates" in said
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}
    assert modes == {"ca.pem": "0o644", "ca-key.pem": "0o600", "server.pem": "0o644", "server-key.pem": "0o600"}
    before = {file.name: file.read_text() for file in folder.iterdir()}
    said = self_signed(folder, "--name", "10.0.0.5")
    assert "as before" in said and "within seconds" in said and "--name" not in said
    after = {file.name: file.read_text() for file in folder.iterdir()}
    assert [name for name in after if after[name] != before[name]] == ["server.pem"]
    assert openssl("verify", "-CAfile", folder / "ca.pem", folder / "server.pem").endswith("OK\n")
    (folder / "ca-key.pem").unlink()
    failed = run_edgellm("tls", "self-signed", "--output", folder)
    assert failed.returncode == 1 and "ca-key.pem: put that back" in failed.stderr, failed.stderr
    assert (folder / "server.pem").read_text() == after["server.pem"]


def test_names_and_days_that_cannot_be_are_refused(folder):
    for arguments, words in ((("--name", "https://box"), "without scheme"), (("--name", "10.0.0.256"), "DNS name"), (("--name", "a b"), "DNS name"),
                             (("--name", "box:8443"), "port"), (("--days", 826), "825"), (("--days", 0), "1..=825")):
        failed = run_edgellm("tls", "self-signed", "--output", folder, *arguments)
        assert failed.returncode == 2 and words in failed.stderr, failed.stderr
    for name in ("ca", "server", "server-key", "../x", ""):
        failed = run_edgellm("tls", "client", name, "--output", folder)
        assert failed.returncode == 2 and "like till-1" in failed.stderr, failed.stderr
    assert not folder.exists()
    failed = run_edgellm("tls", "client", "till-1", "--output", folder.parent)
    assert failed.returncode == 1 and "edgellm tls self-signed" in failed.stderr, failed.stderr


def test_a_certificate_is_shown_and_one_that_has_ended_is_exit_code_1(folder, tmp_path):
    self_signed(folder, "--name", "10.0.0.5")
    shown = run_edgellm("tls", "show", folder / "server.pem")
    assert shown.returncode == 0, shown.stderr
    assert "10.0.0.5" in shown.stdout and re.search(r"^until: .*\(824 days left\)$", shown.stdout, re.MULTILINE)
    assert re.search(r"^issuer:  CN=edgellm ", shown.stdout, re.MULTILINE)
    ca = run_edgellm("tls", "show", folder / "ca.pem").stdout
    assert "(an authority)" in ca and "issuer:  itself" in ca
    config = tmp_path / "openssl.cnf"
    config.write_text("[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=.\ndatabase=db\nserial=serial\npolicy=p\ndefault_md=sha256\n[p]\ncommonName=supplied\norganizationName=optional\n")
    (tmp_path / "db").touch()
    (tmp_path / "serial").write_text("01\n")
    subprocess.run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "r.pem", "-subj", "/O=Harbour, Inc./CN=old"],
                   cwd=tmp_path, check=True, capture_output=True, timeout=30)
    subprocess.run(["openssl", "ca", "-batch", "-config", config, "-selfsign", "-keyfile", "k.pem", "-in", "r.pem", "-out", "old.pem", "-notext",
                    "-startdate", "20200101000000Z", "-enddate", "20210101000000Z"], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    shown = run_edgellm("tls", "show", tmp_path / "old.pem")
    assert shown.returncode == 1 and "EXPIRED" in shown.stdout and r"subject: CN=old,O=Harbour\, Inc." in shown.stdout
    subject = openssl("x509", "-in", tmp_path / "old.pem", "-noout", "-subject", "-nameopt", "RFC2253").removeprefix("subject=").strip()
    assert f"subject: {subject}" in shown.stdout
    for file, words in ((folder / "server-key.pem", "no certificate in PEM"), (tmp_path / "none.pem", "cannot be read")):
        failed = run_edgellm("tls", "show", file)
        assert failed.returncode == 1 and words in failed.stderr


def test_an_authority_of_somebody_elses_making_will_do_and_nothing_outlives_it(folder):
    folder.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=old",
                    "-keyout", folder / "ca-key.pem", "-out", folder / "ca.pem"], check=True, capture_output=True, timeout=30)
    made = self_signed(folder)
    assert "with the authority" in made and "as before" in made
    ends = [openssl("x509", "-in", folder / name, "-noout", "-enddate") for name in ("ca.pem", "server.pem")]
    assert ends[0] == ends[1]
    assert openssl("verify", "-CAfile", folder / "ca.pem", folder / "server.pem").endswith("OK\n")


def test_a_key_may_be_a_certificate(tmp_path):
    file = tmp_path / "keys.toml"
    added = run_edgellm("keys", "add", "till-1", "--subject", "till-1", "--no-key", "--file", file)
    assert added.returncode == 0 and "sk-edge" not in added.stdout, added.stderr
    added = run_edgellm("keys", "add", "till-2", "--subject", "CN=till-2, O=Harbour", "--file", file)
    assert added.stdout.splitlines()[-1].startswith("sk-edge-"), added.stderr
    shown = run_edgellm("keys", "list", "--file", file).stdout
    assert re.search(r"^till-1 .* till-1 .*certificate only$", shown, re.MULTILINE), shown
    assert "CN=till-2, O=Harbour" in shown and file.read_text().count("sha256 =") == 1
    for arguments, code, words in ((("add", "x", "--no-key"), 2, "--subject"), (("add", "x", "--subject", "CN="), 2, "like till-1"),
                                   (("add", "x", "--subject", "CN=till-1", "--no-key"), 1, "(`till-1`)"), (("rotate", "till-1"), 1, "no API key to replace")):
        failed = run_edgellm("keys", *arguments, "--file", file)
        assert failed.returncode == code and words in failed.stderr, failed.stderr
    assert run_edgellm("keys", "rotate", "till-2", "--file", file).returncode == 0
    assert 'subject = "CN=till-2, O=Harbour"' in file.read_text()
    assert run_edgellm("keys", "revoke", "till-1", "--file", file).returncode == 0
    assert "till-1" not in file.read_text()
