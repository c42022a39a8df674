"""API keys: who may ask, what each may do, and how much."""

import json
import re
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from gateway import MODEL, Gateway, ask, gateway, run_edgellm, wait_until
from openai import OpenAI


def add(file: Path, name: str, *flags) -> str:
    """Makes a key; it is alone on the last line."""
    made = run_edgellm("keys", "add", name, "--file", file, *flags)
    assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[-1]
    assert re.fullmatch(r"sk-edge-[0-9a-f]{64}", key), made.stdout
    assert key not in file.read_text()
    return key


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextmanager
def locked(file: Path, *arguments, **settings):
    env = {"EDGELLM__AUTH__KEYS_FILE": str(file), **{f"EDGELLM__{name.upper()}": value for name, value in settings.items()}}
    with gateway(*arguments, env=env) as server:
        yield server


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "keys.toml"


def followed(server: Gateway, changes: int = 1):
    """Waits until the server has read the file again."""
    wait_until(lambda: server.log_text().count("changed the keys file") >= changes, "the new keys are read", 10)


def test_without_a_key_nothing_but_health_and_the_pages_own_files(file):
    key = add(file, "till")
    with locked(file) as server:
        for path in ("/health", "/ready", "/openapi.json", "/", "/page/main.js"):
            assert server.http("GET", path).status == 200, path
        for method, path in (("GET", "/v1/models"), ("GET", "/v1/models/kiosk"), ("GET", "/metrics"), ("POST", "/v1/chat/completions"),
                             ("POST", "/v1/completions"), ("POST", "/v1/embeddings"), ("POST", "/v1/responses"), ("POST", "/tokenize"),
                             ("POST", "/detokenize"), ("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1"), ("GET", "/nothing")):
            for headers, code in (({}, "missing_api_key"), (bearer("sk-wrong"), "invalid_api_key"), ({"x-api-key": key[:-1]}, "invalid_api_key")):
                answer = server.http(method, path, headers=headers)
                error = answer.error()
                assert (answer.status, error["type"], error["code"]) == (401, "authentication_error", code), path
                assert answer.headers["www-authenticate"].startswith("Bearer"), path
        for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"bearer {key}"}):
            assert server.http("GET", "/v1/models", headers=headers).status == 200
        assert key not in server.log_text() and "sk-wrong" not in server.log_text()


def test_openais_sdk_knows_the_refusals(file):
    key = add(file, "till", "--models", "other")
    with locked(file) as server:
        def client(key):
            return OpenAI(base_url=server.base_url, api_key=key, max_retries=0)

        with pytest.raises(openai.AuthenticationError) as refused:
            client("sk-wrong").models.list()
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client(key).chat.completions.create(model="kiosk", messages=ask("Hello"))
        assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")
        assert client(key).models.list().data == []


def test_a_tier_above_the_keys_is_lowered_and_told(file):
    usual, urgent = add(file, "kiosk"), add(file, "till", "--tier", "priority")
    lazy = add(file, "batch", "--tier", "flex")
    with locked(file) as server:
        for key, asked, granted in ((usual, "priority", "default"), (urgent, "priority", "priority"), (usual, "flex", "flex"),
                                    (lazy, "auto", "flex"), (urgent, "auto", "default")):
            answer = server.post("/v1/chat/completions", {"model": "kiosk", "messages": ask("Hello"), "service_tier": asked, "max_tokens": 1}, bearer(key))
            assert answer.json()["service_tier"] == granted
            answer = server.post("/v1/responses", {"model": "kiosk", "input": "Hello", "service_tier": asked, "max_output_tokens": 16}, bearer(key))
            assert answer.json()["service_tier"] == granted


def test_metrics_are_for_administrators_unless_configured_otherwise(file):
    till, admin = add(file, "till"), add(file, "boss", "--admin")
    for setting, of_nobody, of_till in (("admin", 401, 403), ("key", 401, 200), ("open", 200, 200)):
        with locked(file, auth__metrics=setting) as server:
            assert server.http("GET", "/metrics").status == of_nobody
            assert server.http("GET", "/metrics", headers=bearer(till)).status == of_till
            assert server.http("GET", "/metrics", headers=bearer(admin)).status == 200


def test_limits_are_told_and_held(file):
    key = add(file, "kiosk", "--requests-per-minute", 3)
    rich = add(file, "till")
    with locked(file) as server:
        def chat(key):
            return server.post("/v1/chat/completions", {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 2}, bearer(key))

        for left in (2, 1, 0):
            answer = chat(key)
            assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (200, str(left))
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert re.fullmatch(r"\d+m\d+s|\d+s|\d+ms", answer.headers["x-ratelimit-reset-requests"])
        refused = chat(key)
        error = refused.error()
        assert (refused.status, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert "3 requests a minute" in error["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert 0 < int(refused.headers["retry-after-ms"]) <= 20_000
        assert "x-ratelimit-limit-requests" not in chat(rich).headers
        # A stream is told as well.
        streamed = server.post("/v1/chat/completions", {"model": "kiosk", "messages": ask("Hello"), "stream": True}, bearer(key))
        assert streamed.status == 429


def test_an_answer_is_not_cut_for_tokens_and_the_debt_is_paid_later(file):
    key = add(file, "kiosk", "--tokens-per-minute", 60)
    with locked(file) as server:
        def chat(**more):
            return server.post("/v1/chat/completions", {"model": "kiosk", "messages": ask("Hello"), "ignore_eos": True, **more}, bearer(key))

        answer = chat(max_tokens=300)
        usage = answer.json()["usage"]
        assert usage["completion_tokens"] == 300
        refused = chat(max_tokens=5)
        assert (refused.status, refused.headers["x-ratelimit-remaining-tokens"]) == (429, "0")
        assert int(refused.headers["retry-after"]) == 120, "SDKs give up when they are told more"
        message = refused.error()["message"]
        assert int(re.search(r"again in (\d+) seconds", message)[1]) >= usage["total_tokens"] - 60


def test_requests_at_once_end_with_their_clients(file):
    key = add(file, "kiosk", "--requests-at-once", 1)
    with locked(file) as server, OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as client:
        stream = client.chat.completions.create(model="kiosk", messages=ask("Hello"), stream=True, extra_body={"ignore_eos": True}, max_tokens=2000)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="kiosk", messages=ask("Hello"))
        assert "1 requests at once" in refused.value.message
        stream.close()

        def admitted():
            try:
                return client.chat.completions.create(model="kiosk", messages=ask("Hello"), max_tokens=1)
            except openai.RateLimitError:
                return None

        wait_until(admitted, "the place is free")


def test_openais_sdk_waits_for_its_quota_and_succeeds(file):
    key = add(file, "kiosk", "--requests-per-minute", 40)
    with locked(file) as server, OpenAI(base_url=server.base_url, api_key=key, max_retries=3) as client:
        began = time.monotonic()
        for _ in range(42):
            client.chat.completions.create(model="kiosk", messages=ask("Hello"), max_tokens=1)
        assert time.monotonic() - began > 1, "two had to wait"
        refused = server.http("GET", "/v1/models", headers=bearer(key))
        assert refused.status == 200, "what costs nothing is not counted"


def test_a_running_server_follows_the_file(file):
    first = add(file, "till")
    with locked(file) as server:
        def status(key):
            return server.http("GET", "/v1/models", headers=bearer(key)).status

        second = add(file, "office")
        followed(server)
        assert (status(first), status(second)) == (200, 200)
        rotated = run_edgellm("keys", "rotate", "till", "--file", file, "--keep-old", 1).stdout.splitlines()[-1]
        followed(server, 2)
        assert (status(first), status(rotated)) == (200, 200)
        assert run_edgellm("keys", "revoke", "till", "--file", file).returncode == 0
        followed(server, 3)
        assert [status(key) for key in (first, rotated, second)] == [401, 401, 200]
        assert '"removed":"till"' in server.log_text()
        # Poison: the keys stay, and the log says what is wrong.
        text = file.read_text()
        file.write_text(text[: len(text) - 20])
        wait_until(lambda: "the keys stay as they were" in server.log_text(), "the poison is reported", 10)
        assert status(second) == 200
        file.unlink()
        wait_until(lambda: server.log_text().count("the keys stay as they were") == 2, "the lack of it is reported", 10)
        assert status(second) == 200
        file.write_text(text)
        assert status(second) == 200


def test_a_request_under_way_outlives_its_key(file):
    key = add(file, "till")
    with locked(file) as server, OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as client:
        stream = client.chat.completions.create(model="kiosk", messages=ask("Hello"), stream=True, extra_body={"ignore_eos": True}, max_tokens=1500)
        events = iter(stream)
        next(events)
        run_edgellm("keys", "revoke", "till", "--file", file)
        followed(server)
        assert list(events)[-1].choices[0].finish_reason == "length"
        assert "nobody may ask" in server.log_text()


def test_responses_and_streams_belong_to_their_key(file):
    mine, other = add(file, "mine"), add(file, "other")
    with locked(file) as server:
        made = server.post("/v1/responses", {"model": "kiosk", "input": "Hello", "max_output_tokens": 16}, bearer(mine)).json()
        path = f"/v1/responses/{made['id']}"
        assert server.http("GET", path, headers=bearer(mine)).status == 200
        for method, route in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel")):
            theirs = server.http(method, route, headers=bearer(other))
            nobodys = server.http(method, route.replace(made["id"], "resp_" + "0" * 32), headers=bearer(other))
            assert theirs.status == nobodys.status == 404
            assert theirs.text.replace(made["id"], "ID") == nobodys.text.replace("resp_" + "0" * 32, "ID")
        follow = {"model": "kiosk", "input": "And?", "previous_response_id": made["id"], "max_output_tokens": 16}
        assert server.post("/v1/responses", follow, bearer(other)).error()["code"] == "previous_response_not_found"
        assert server.post("/v1/responses", follow, bearer(mine)).status == 200

        body = {"model": "kiosk", "messages": ask("Hello"), "stream": True, "max_tokens": 5}
        named = {"x-request-id": "till-3:42"}
        whole = server.post("/v1/chat/completions", body, {**bearer(mine), **named})
        resumed = {**named, "last-event-id": "0"}
        assert server.post("/v1/chat/completions", body, {**bearer(mine), **resumed}).text in whole.text
        assert server.post("/v1/chat/completions", body, {**bearer(other), **resumed}).error()["code"] == "stream_not_found"


def test_a_lost_stream_is_resumed_though_its_key_may_ask_nothing_more(file):
    key = add(file, "till", "--requests-at-once", 1, "--requests-per-minute", 2)
    with locked(file) as server:
        named = {**bearer(key), "x-request-id": "till-3:43", "content-type": "application/json"}
        body = json.dumps({"model": "kiosk", "messages": ask("Hello"), "stream": True, "max_tokens": 1500, "ignore_eos": True})
        connection = server.connect()
        connection.request("POST", "/v1/chat/completions", body, named)
        response = connection.getresponse()
        assert response.status == 200 and response.readline()
        connection.close()
        whole = server.http("POST", "/v1/chat/completions", body, {**named, "last-event-id": "0"})
        assert whole.status == 200 and whole.events()[-1].data == "[DONE]"
        # Looking for what is not there counts as a request.
        unknown = {**named, "x-request-id": "nobody", "last-event-id": "0"}
        assert [server.http("POST", "/v1/chat/completions", body, unknown).status for _ in range(2)] == [404, 429]


def test_a_deadline_that_is_missed_costs_a_request(file):
    key = add(file, "till", "--requests-per-minute", 2)
    with locked(file) as server:
        body = {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 2000, "ignore_eos": True}
        answers = [server.post("/v1/chat/completions", body, {**bearer(key), "x-deadline-ms": "1"}) for _ in range(3)]
        # The first token may be there within the millisecond; then the answer is cut.
        assert {answer.status for answer in answers[:2]} <= {200, 503} and answers[2].status == 429


def test_groups_learn_nothing_of_each_others_prompts(file):
    keys = {name: add(file, name, "--group", group) for name, group in (("a1", "a"), ("a2", "a"), ("b1", "b"))}
    keys["alone"] = add(file, "alone")
    long = [{"role": "system", "content": "The shop sells tea and bread and cheese. " * 40}, {"role": "user", "content": "Hello"}]
    settings = {"telemetry__cached_tokens_in_usage": "exact"}

    def cached(server, name):
        answer = server.post("/v1/chat/completions", {"model": "kiosk", "messages": long, "max_tokens": 1}, bearer(keys[name]))
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    with locked(file, auth__share_prefixes="group", **settings) as server:
        assert cached(server, "a1") == 0
        assert cached(server, "a2") > 300
        for other in ("b1", "alone"):
            assert cached(server, other) == 0
            assert cached(server, other) > 300
    with locked(file, **settings) as server:
        assert cached(server, "a1") == 0
        assert cached(server, "b1") > 300


def test_each_key_has_its_series_by_name(file):
    key, admin = add(file, "till-3", "--requests-per-minute", 1), add(file, "boss", "--admin")
    with locked(file) as server:
        for _ in range(2):
            server.post("/v1/chat/completions", {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 3}, bearer(key))
        text = server.http("GET", "/metrics", headers=bearer(admin)).text
        for line in ('edgellm_key_requests_total{key="till-3",status="200"} 1', 'edgellm_key_requests_total{key="till-3",status="429"} 1',
                     'edgellm_key_rejected_total{key="till-3",reason="requests_per_minute"} 1', 'edgellm_key_tokens_total{key="till-3",kind="generated"} 3'):
            assert line in text, line
        assert key not in text
        assert re.search(r'"message":"answered".*"key":"till-3"', server.log_text())


def test_embeddings_and_tokens_count_too(file, both_models):
    key = add(file, "till", "--tokens-per-minute", 100)
    env = {"EDGELLM__AUTH__KEYS_FILE": str(file)}
    with gateway("--config", both_models, env=env) as server:
        answer = server.post("/v1/embeddings", {"model": "minilm", "input": "a word " * 100}, bearer(key))
        assert answer.status == 200
        assert server.post("/v1/embeddings", {"model": "minilm", "input": "one"}, bearer(key)).status == 429


def serve(*arguments, env=None):
    return run_edgellm("serve", "--model", MODEL, *arguments, env=env)


def test_without_keys_it_listens_on_this_machine_alone_unless_it_is_said_to_be_open(tmp_path):
    refused = serve("--listen", "0.0.0.0:0")
    assert refused.returncode == 2
    for words in ("server.listen", "auth.keys_file", "auth.open"):
        assert words in refused.stderr
    for listen, env, who in (("127.0.0.1", {}, "whoever is on this machine"), ("0.0.0.0", {"EDGELLM__AUTH__OPEN": "true"}, "anybody on the network")):
        with gateway(env=env, host=listen) as server:
            said = [line for line in server.log_text().splitlines() if '"WARN"' in line and "OPEN" in line]
            assert len(said) == 1 and who in said[0] and "auth.keys_file" in said[0], server.log_text()


def test_a_first_start_makes_a_first_key_and_says_where_it_lies(tmp_path):
    file = tmp_path / "keys.toml"
    with gateway(env={"EDGELLM__AUTH__KEYS_FILE": str(file)}, host="0.0.0.0") as server:
        place = tmp_path / "first-admin-key"
        assert str(place) in server.log_text()
        assert oct(place.stat().st_mode & 0o777) == oct(file.stat().st_mode & 0o777) == "0o600"
        key = place.read_text().strip()
        assert key not in server.log_text()
        assert server.http("GET", "/metrics", headers=bearer(key)).status == 200
        assert server.http("GET", "/v1/models").status == 401
    place.unlink()
    with locked(file) as server:
        assert not place.exists(), "the second start makes none"
        assert server.http("GET", "/metrics", headers=bearer(key)).status == 200


def test_a_file_that_is_wrong_at_the_start_is_told_with_its_place(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text('[[keys]]\nname = "till"\nsha256 = "sk-edge-secret"\n')
    refused = serve("--listen", "127.0.0.1:0", env={"EDGELLM__AUTH__KEYS_FILE": str(file)})
    assert refused.returncode == 1
    said = refused.stdout + refused.stderr
    assert "key 1 (`till`)" in said and "sha256" in said and "sk-edge-secret" not in said


def test_a_list_shows_what_each_key_may_do(file):
    key = add(file, "till", "--group", "tills", "--tier", "priority", "--tokens-per-minute", 5000, "--expires", "2020-01-31")
    add(file, "boss", "--admin")
    shown = run_edgellm("keys", "list", "--file", file).stdout
    assert re.search(r"^till +tills +priority +1 +5000 tokens/min .*EXPIRED$", shown, re.MULTILINE)
    assert re.search(r"^boss .*admin$", shown, re.MULTILINE)
    with locked(file) as server:
        answer = server.http("GET", "/v1/models", headers=bearer(key))
        assert (answer.status, answer.error()["code"]) == (401, "expired_api_key")


def test_commands_on_keys_say_what_is_wrong(file, tmp_path):
    add(file, "till")
    for arguments, words in ((("add", "till"), "already"), (("add", "a b"), "letters"), (("revoke", "nobody"), "no key `nobody`"),
                             (("rotate", "nobody"), "no key `nobody`")):
        failed = run_edgellm("keys", *arguments, "--file", file)
        assert failed.returncode == 1 and words in failed.stderr, failed.stderr
    failed = run_edgellm("keys", "list")
    assert failed.returncode == 1 and "auth.keys_file" in failed.stderr
    by_config = run_edgellm("keys", "list", env={"EDGELLM__AUTH__KEYS_FILE": str(file)})
    assert by_config.stdout.splitlines()[1].startswith("till")
    failed = run_edgellm("keys", "add", "x", "--file", tmp_path / "nowhere/keys.toml")
    assert failed.returncode == 1 and "cannot be written" in failed.stderr
