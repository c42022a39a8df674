"""Under which names the server may be asked, by which web pages, and which proxies it believes."""

import http.client
import json
import socket

import pytest
from gateway import Answer, Gateway, ask, gateway

KIOSK = "https://kiosk.example.com"
EVIL = "https://evil.example"
QUESTION = json.dumps({"model": "kiosk", "messages": ask("Where is the coffee?"), "max_tokens": 4})


@pytest.fixture(scope="module")
def listing():
    """A server that lists one origin and believes whoever is on this machine, as it would a proxy there."""
    env = {"EDGELLM__SERVER__CORS_ORIGINS": f"{KIOSK},null", "EDGELLM__SERVER__TRUSTED_PROXIES": "127.0.0.1",
           "EDGELLM__SERVER__ALLOWED_HOSTS": "*.shop.example"}
    with gateway(env=env) as running:
        yield running


def asked(server: Gateway, method: str = "POST", path: str = "/v1/chat/completions", **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http(method, path, QUESTION if method == "POST" else None, {"content-type": "application/json", **names})


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.error()["code"]


def tokens(server: Gateway) -> float:
    return server.metric("edgellm_prompt_tokens_total") + server.metric("edgellm_generation_tokens_total")


def cors(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_a_name_that_a_stranger_could_have_is_refused_on_every_path(server):
    for host in (f"127.0.0.1:{server.port}", "10.0.0.5", "[::1]:8080", "localhost", "box", "edgellm:8080", "app.localhost", f"{socket.gethostname()}.local"):
        assert asked(server, "GET", "/v1/models", host=host).status == 200, host
    before = tokens(server)
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/"), ("GET", "/health"), ("GET", "/metrics"), ("GET", "/nothing"), ("OPTIONS", "/v1/models")):
        for host in ("evil.example", f"EVIL.example.:{server.port}", "127.0.0.1.evil.example"):
            # As after DNS rebinding: for the browser this is the page's own server.
            answer = asked(server, method, path, host=host, origin=f"http://{host.lower().replace('.:', ':')}", sec_fetch_site="same-origin")
            assert refusal(answer) == (403, "host_not_allowed"), (path, host)
            assert "evil.example" in answer.error()["message"] and "server.allowed_hosts" in answer.error()["message"]
            assert answer.headers["x-request-id"]
    assert tokens(server) == before


def test_a_name_in_the_request_line_counts_and_two_or_none_in_the_headers_are_told_apart(server):
    def status(head: str) -> int:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status

    assert status("GET http://evil.example/v1/models HTTP/1.1\r\nHost: box") == 403
    assert status("GET http://box/v1/models HTTP/1.1\r\nHost: evil.example") == 200
    assert status("GET /v1/models HTTP/1.1\r\nHost: box\r\nHost: box") == 400
    assert status("GET /v1/models HTTP/1.1\r\nHost: a b") == 400
    assert status("GET /v1/models HTTP/1.0") == 200


def test_what_the_settings_name_is_allowed(listing):
    assert asked(listing, "GET", "/v1/models", host="box-17.shop.example:8080").status == 200
    assert refusal(asked(listing, "GET", "/v1/models", host="shop.example")) == (403, "host_not_allowed")


def test_what_a_page_that_is_not_listed_sends_triggers_nothing(server):
    before, refused = tokens(server), server.metric("edgellm_requests_total", 'status="403"')
    pages = [
        {"origin": EVIL}, {"origin": EVIL, "content_type": "text/plain"}, {"origin": "null"}, {"origin": "file://"},
        {"origin": f"http://127.0.0.1:{server.port + 1}"}, {"origin": EVIL, "sec_fetch_site": "cross-site"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"}, {"sec_fetch_site": "cross-site"},
        # Whoever is not believed cannot say which host was asked for.
        {"origin": EVIL, "x_forwarded_host": "evil.example"},
    ]
    for headers in pages:
        answer = asked(server, **headers)
        assert refusal(answer) == (403, "origin_not_allowed"), headers
        assert not cors(answer) and "server.cors_origins" in answer.error()["message"]
        assert any(answer.headers["x-request-id"] in line and "origin_not_allowed" in line for line in server.log_text().splitlines())
    assert tokens(server) == before
    assert f'"refused":"{EVIL}","from":"127.0.0.1"' in server.log_text(), "who runs the server must read what to list"
    assert server.metric("edgellm_requests_total", 'status="403"') == refused + len(pages)
    for mode, dest in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe")):
        answer = asked(server, "GET", "/v1/models", sec_fetch_site="cross-site", sec_fetch_mode=mode, sec_fetch_dest=dest)
        assert refusal(answer) == (403, "origin_not_allowed")
    assert asked(server, "GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document").status == 200


def test_the_servers_own_pages_and_programs_ask_as_ever(server):
    own = f"http://127.0.0.1:{server.port}"
    for headers in ({}, {"origin": own}, {"origin": own, "sec_fetch_site": "same-origin"}, {"sec_fetch_mode": "cors"}, {"sec_fetch_site": "none"}):
        answer = asked(server, **headers)
        assert answer.status == 200, headers
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert not cors(answer)
    assert refusal(asked(server, "OPTIONS")) == (405, "method_not_allowed")


def test_a_browser_is_told_beforehand_what_a_listed_page_may_send_without_a_key(tmp_path):
    env = {"EDGELLM__SERVER__CORS_ORIGINS": KIOSK, "EDGELLM__AUTH__KEYS_FILE": str(tmp_path / "keys.toml")}
    wanted = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,content-type,x-stainless-lang"}
    with gateway(env=env) as server:
        assert server.http("OPTIONS", "/v1/models").status == 401
        preflight = asked(server, "OPTIONS", origin=KIOSK, access_control_request_private_network="true", **wanted)
        assert (preflight.status, preflight.text) == (200, "")
        assert cors(preflight) == {
            "access-control-allow-origin": KIOSK, "access-control-allow-methods": "GET,POST,DELETE", "access-control-max-age": "7200",
            "access-control-allow-headers": "authorization,content-type,x-stainless-lang", "access-control-allow-private-network": "true"}
        assert "origin" in preflight.headers["vary"]
        assert "access-control-allow-private-network" not in cors(asked(server, "OPTIONS", origin=KIOSK, **wanted))
        # None of another page.
        other = asked(server, "OPTIONS", origin=EVIL, access_control_request_private_network="true", **wanted)
        assert refusal(other) == (403, "origin_not_allowed") and not cors(other) and other.headers["vary"] == "origin"
        # Every refusal can be read, also those of other walls.
        for answer, expected in [
            (asked(server, origin=KIOSK), (401, "missing_api_key")),
            (asked(server, origin=KIOSK, host="evil.example"), (403, "host_not_allowed")),
            (asked(server, "GET", "/nothing", origin=KIOSK), (401, "missing_api_key")),
        ]:
            assert refusal(answer) == expected and cors(answer)["access-control-allow-origin"] == KIOSK


def test_a_listed_page_can_read_all_that_it_is_told(listing):
    answered = [asked(listing, origin=KIOSK, x_deadline_ms="60000"), asked(listing, "GET", "/nothing", origin=KIOSK),
                listing.http("POST", "/v1/chat/completions", "{", {"origin": KIOSK, "content-type": "application/json"}),
                listing.http("POST", "/v1/chat/completions", b" " * (5 << 20), {"origin": KIOSK, "content-type": "application/json"})]
    assert [answer.status for answer in answered] == [200, 404, 400, 413]
    readable = {"content-type", "content-length", "cache-control", "vary", "date", "cross-origin-resource-policy", "x-content-type-options"}
    for answer in answered:
        assert cors(answer)["access-control-allow-origin"] == KIOSK
        exposed = set(cors(answer)["access-control-expose-headers"].split(","))
        assert {name for name in answer.headers if not name.startswith("access-control-")} <= exposed | readable
    for origin in ("null", "file://"):
        assert cors(asked(listing, origin=origin))["access-control-allow-origin"] == origin
    # Caches must not give one page the answer to another.
    assert asked(listing, "GET", "/v1/models").headers["vary"] == "origin"


def test_a_trusted_proxy_is_believed_which_host_it_was_asked_for(listing):
    outside = "https://till.shop.example"
    assert asked(listing, origin=outside, x_forwarded_host="till.shop.example").status == 200
    assert refusal(asked(listing, origin=outside)) == (403, "origin_not_allowed")
    for hosts in ("evil.example", "till.shop.example, evil.example", "evil.example, till.shop.example"):
        assert refusal(asked(listing, x_forwarded_host=hosts)) == (403, "host_not_allowed"), hosts


def test_of_others_what_is_forwarded_is_ignored(server):
    assert asked(server, x_forwarded_host="evil.example", x_forwarded_for="nonsense").status == 200
