"""What operators and orchestrators look at."""

import re
import shutil
import subprocess

import pytest
from gateway import EMBEDDER, MODEL, ask, gateway, run_edgellm, wait_until

PROMISED = """
requests_total requests_waiting requests_running requests_cancelled_total
prompt_tokens_total prompt_tokens_cached_total generation_tokens_total
speculative_drafted_tokens_total speculative_accepted_tokens_total
time_to_first_token_seconds inter_token_latency_seconds request_duration_seconds request_queue_duration_seconds
request_prefill_duration_seconds request_decode_duration_seconds
engine_steps_total engine_busy_seconds_total engine_batch_tokens kv_cache_usage_ratio kv_cache_tokens
prefix_cache_queries_total prefix_cache_hits_total preemptions_total build_info model_info
""".split()


def test_the_models_are_listed(client):
    [model] = client.models.list().data
    assert (model.id, model.object) == ("kiosk", "model")
    assert model.owned_by and model.created > 0
    described = model.model_extra["edgellm"]
    assert described["context"] >= 2048 and described["quantization"] == "Q8_0" and described["size"] > 1_000_000
    assert described["state"] == "ready"


def test_one_model_is_described(client):
    assert client.models.retrieve("kiosk").id == "kiosk"


def test_models_that_are_not_loaded_say_what_they_are_for(tmp_path):
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(MODEL.read_bytes()[:4000])
    files = {"kiosk": MODEL, "cold": MODEL, "minilm": EMBEDDER, "torn": torn}
    config = tmp_path / "cold.toml"
    config.write_text("".join(f'[[models]]\nid = "{id}"\npath = "{path}"\naliases = ["{id}-*"]\npreload = {str(id == "kiosk").lower()}\n' for id, path in files.items()))
    with gateway("--config", config) as server:
        listed = {model["id"]: model["edgellm"] for model in server.http("GET", "/v1/models").json()["data"]}
        assert {id: (model["state"], model.get("kind"), model["aliases"]) for id, model in listed.items()} == {
            "kiosk": ("ready", "chat", ["kiosk-*"]), "cold": ("cold", "chat", ["cold-*"]), "minilm": ("cold", "embedding", ["minilm-*"]), "torn": ("cold", None, ["torn-*"]),
        }


def test_health_and_readiness(server):
    assert server.http("GET", "/health").status == 200
    assert server.http("GET", "/ready").status == 200


def test_a_request_id_is_echoed_in_answers_streams_and_errors(server):
    sent = {"x-request-id": "till-3.request_17"}
    body = {"model": "kiosk", "messages": ask("Hello"), "max_tokens": 1}
    for answer in (server.post("/v1/chat/completions", body, sent), server.post("/v1/chat/completions", {**body, "stream": True}, sent),
                   server.post("/v1/chat/completions", {}, sent), server.http("GET", "/nowhere", headers=sent)):
        assert answer.headers["x-request-id"] == "till-3.request_17"


def test_a_request_id_is_made_where_none_is_sent(server):
    made = [server.http("GET", "/health").headers["x-request-id"] for _ in range(2)]
    assert all(made) and made[0] != made[1]


@pytest.mark.parametrize("hostile", ["x" * 5000, "a b\tc", "<script>"])
def test_a_request_id_that_could_spoil_a_log_is_not_echoed_as_it_is(server, hostile):
    answer = server.http("GET", "/health", headers={"x-request-id": hostile})
    assert answer.status == 200
    assert re.fullmatch(r"[\x21-\x7e]{1,200}", answer.headers["x-request-id"])


def test_metrics_count_what_happened(server):
    names = ["prompt_tokens_total", "generation_tokens_total", "request_duration_seconds_count", "time_to_first_token_seconds_count"]

    def counted():
        requests = server.metric("edgellm_requests_total", 'endpoint="/v1/chat/completions"')
        return [requests, *(server.metric(f"edgellm_{name}") for name in names)]

    before = counted()
    usage = server.chat(temperature=0).json()["usage"]
    grown = [now - then for now, then in zip(counted(), before, strict=True)]
    assert grown == [1, usage["prompt_tokens"], usage["completion_tokens"], 1, 1]
    wait_until(lambda: server.metric("edgellm_requests_running") == server.metric("edgellm_requests_waiting") == 0, "nothing runs or waits")


def test_every_promised_metric_is_there_with_help_and_type(server):
    server.chat(max_tokens=2)
    answer = server.http("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for name in PROMISED:
        assert f"# HELP edgellm_{name} " in answer.text, name
        assert f"# TYPE edgellm_{name} " in answer.text, name
    assert "process_resident_memory_bytes" in answer.text


def test_labels_hold_no_values_that_clients_choose(server):
    server.chat(model="label-injection-17")
    server.http("GET", "/label-injection-17")
    assert "label-injection-17" not in server.metrics()


def test_the_health_command_agrees(server):
    assert run_edgellm("health", f"http://127.0.0.1:{server.port}").returncode == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; ./test.sh fetches it")
def test_prometheus_itself_finds_nothing_wrong_with_the_metrics(server):
    server.chat()
    checked = subprocess.run(["promtool", "check", "metrics"], input=server.metrics(), text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
