"""The model pool: many models in one memory, loaded when they are asked for and gone when others need their place."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from adapters import adapter
from gateway import EMBEDDER, MODEL, Gateway, ask, gateway, run_edgellm, wait_until
from openai import OpenAI

FAILED = 1
MIB = 1 << 20
# For two of the shipped model, and not for three.
BUDGET = 180 * MIB


def model(id: str, path: Path = MODEL, **settings) -> str:
    """An entry of [[models]]."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["[[models]]", f'id = "{id}"', f'path = "{path}"', *lines, ""])


@pytest.fixture
def serve(tmp_path):
    @contextmanager
    def serving(*models: str, top: str = "", **env):
        config = tmp_path / "pool.toml"
        config.write_text("\n".join([top, *models]))
        with gateway("--config", config, env=env or None) as server:
            yield server
            assert "panicked" not in server.log_text()

    return serving


def listed(server: Gateway, id: str) -> dict:
    """What GET /models says of a model."""
    answer = server.http("GET", "/models")
    assert answer.status == 200, answer.text
    return next(entry for entry in answer.json()["data"] if entry["id"] == id)


def state(server: Gateway, id: str) -> str:
    return listed(server, id)["edgellm"]["state"]


def reaches(server: Gateway, id: str, wanted: str, seconds: float = 60):
    wait_until(lambda: state(server, id) == wanted, f"{id} is {wanted}", seconds)


def chat(server: Gateway, id: str, headers=None, **parameters):
    body = {"model": id, "messages": ask("How much is the Brindle Oat Bar?"), "max_tokens": 8, **parameters}
    return server.post("/v1/chat/completions", body, headers)


def test_a_cold_model_is_loaded_by_its_first_request_and_others_do_not_wait_for_it(serve):
    with serve(model("kiosk"), model("spare", preload=False)) as server:
        assert (state(server, "kiosk"), state(server, "spare")) == ("ready", "cold")
        assert server.http("GET", "/v1/models/spare").json()["edgellm"]["state"] == "cold"
        answer = chat(server, "spare")
        assert answer.status == 200, answer.text
        assert answer.json()["model"] == "spare"
        assert state(server, "spare") == "ready"
        assert server.metric("edgellm_model_loads_total", 'model="spare"') == 1
        assert server.metric("edgellm_model_state", 'model="spare",state="ready"') == 1


def test_names_are_ids_aliases_patterns_or_the_default_models(serve):
    models = model("large", aliases=["gpt-4o"]), model("small", aliases=["gpt-*-mini", "till"], default=True)
    with serve(*models) as server:
        for name, served, reason in (("large", "large", None), ("gpt-4o", "large", None), ("gpt-4o-mini", "small", None),
                                     ("till", "small", None), ("claude-9", "small", "default"), ("", "small", "default")):
            answer = chat(server, name)
            assert answer.status == 200, answer.text
            assert answer.json()["model"] == served, name
            assert answer.headers.get("x-edgellm-model-reason") == reason, name
            assert answer.headers.get("x-edgellm-model") == (served if reason else None), name
        # What is about one model by name is not about the default one.
        assert server.http("GET", "/v1/models/gpt-4o").json()["id"] == "large"
        for path in ("/v1/models/claude-9", "/ready?model=claude-9"):
            assert server.http("GET", path).status == 404, path


def test_without_a_default_model_an_unknown_name_is_refused_with_those_that_exist(serve):
    with serve(model("large"), model("small", preload=False)) as server:
        answer = chat(server, "gpt-4o-mini")
        assert answer.status == 404
        assert answer.error()["code"] == "model_not_found"
        assert "large, small" in answer.error()["message"]


def test_an_administrator_loads_and_unloads(serve):
    with serve(model("kiosk", pinned=True), model("spare", preload=False)) as server:
        assert server.http("GET", "/ready?model=spare").json()["status"] == "cold"
        assert server.post("/models/load", {"model": "spare"}).json() == {"success": True}
        reaches(server, "spare", "ready")
        assert server.http("GET", "/ready?model=spare").status == 200
        assert listed(server, "spare")["status"] == {"value": "loaded"}
        memory = listed(server, "spare")["edgellm"]["memory"]
        assert memory["weights"] > 5 * MIB and memory["kv_cache"] > MIB and memory["compute"] > MIB, memory
        assert server.post("/models/unload", {"model": "spare"}).json() == {"success": True}
        reaches(server, "spare", "cold")
        assert listed(server, "spare")["status"] == {"value": "unloaded"}
        assert server.metric("edgellm_pool_evictions_total", 'reason="asked"') == 1
        pinned = server.post("/models/unload", {"model": "kiosk"})
        assert (pinned.status, pinned.error()["param"]) == (400, "model")
        for path in ("/models/load", "/models/unload"):
            assert server.post(path, {"model": "absent"}).error()["code"] == "model_not_found"
            assert server.post(path, {}).status == 400
            assert server.http("GET", path).status == 405


def test_an_unloaded_model_finishes_its_answers_and_comes_back_when_asked(serve):
    with serve(model("kiosk"), model("spare")) as server:
        with OpenAI(base_url=server.base_url, api_key="x", max_retries=0, timeout=60) as client:
            def stream():
                return client.chat.completions.create(model="spare", messages=ask("hi"), stream=True, max_tokens=400,
                                                      extra_body={"ignore_eos": True})

            answer = stream()
            next(iter(answer))
            server.post("/models/unload", {"model": "spare"})
            # Asked while it leaves: it waits for the next load, and nothing is lost.
            late = ThreadPoolExecutor().submit(chat, server, "spare")
            chunks = list(answer)
            assert chunks[-1].choices[0].finish_reason == "length"
            assert late.result().status == 200
        assert server.metric("edgellm_model_loads_total", 'model="spare"') == 2


def test_an_idle_model_leaves_after_its_time(serve):
    with serve(model("kiosk"), model("spare", preload=False, keep_alive=1)) as server:
        assert chat(server, "spare").status == 200
        reaches(server, "spare", "cold", 20)
        assert state(server, "kiosk") == "ready"
        assert server.metric("edgellm_pool_evictions_total", 'reason="idle"') == 1
        assert server.http("GET", "/ready").status == 200


def test_models_that_do_not_fit_together_take_turns_and_nothing_is_lost(serve):
    # Room for the pinned one and one other.
    top = f"[pool]\nmemory_budget = {BUDGET}\n"
    spare = [model(f"spare-{number}", preload=False) for number in range(4)]
    with serve(model("kiosk", pinned=True), *spare, top=top) as server:
        size = sum(listed(server, "kiosk")["edgellm"]["memory"].values())
        assert 2 * size < BUDGET < 3 * size, size
        with ThreadPoolExecutor(4) as clients:
            ids = [f"spare-{number % 4}" for number in range(24)] + ["kiosk"] * 8
            answers = list(clients.map(lambda id: (id, chat(server, id)), ids))
        for id, answer in answers:
            assert answer.status == 200, answer.text
            assert answer.json()["model"] == id
        budget = server.metric("edgellm_pool_memory_budget_bytes")
        assert server.metric("edgellm_pool_memory_bytes") <= budget == BUDGET
        assert state(server, "kiosk") == "ready"


def test_a_model_that_cannot_fit_is_refused_with_the_numbers_and_the_others_serve(serve):
    top = f"[pool]\nmemory_budget = {BUDGET}\n"
    with serve(model("kiosk", pinned=True), model("huge", preload=False, context=1_000_000), top=top) as server:
        answer = chat(server, "huge")
        error = answer.error()
        assert (answer.status, error["type"], error["code"]) == (503, "overloaded_error", "memory")
        assert "MiB" in error["message"] and "models.context" in error["message"] and str(BUDGET // MIB) in error["message"], error
        assert int(answer.headers["retry-after"]) >= 1
        assert chat(server, "kiosk").status == 200
        reaches(server, "huge", "failed", 10)
        assert "MiB" in listed(server, "huge")["edgellm"]["reason"]


def test_one_bad_file_does_not_end_the_process_and_is_tried_again_when_it_was_mended(serve, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(MODEL.read_bytes()[:100_000])
    with serve(model("kiosk"), model("bad", bad, preload=False)) as server:
        for _ in range(2):
            answer = chat(server, "bad")
            assert answer.status == 500, answer.text
            assert "bad" in answer.error()["message"]
        entry = listed(server, "bad")
        assert entry["status"] == {"value": "unloaded", "failed": True}
        assert entry["edgellm"]["reason"] and entry["edgellm"]["again_in_seconds"] <= 10
        assert server.metric("edgellm_model_loads_total", 'model="bad",result="failed"') == 1, "not again at once"
        assert server.http("GET", "/ready").status == 200
        assert chat(server, "kiosk").status == 200
        whole = tmp_path / "whole"
        shutil.copy(MODEL, whole)
        whole.rename(bad)
        assert chat(server, "bad").status == 200, "another file is tried at once"


def test_a_preloaded_model_that_fails_is_not_ready_and_alone_it_ends_the_process(serve, tmp_path):
    config = tmp_path / "alone.toml"
    absent = tmp_path / "absent.gguf"
    config.write_text(f'[server]\nlisten = "127.0.0.1:0"\n{model("bad", absent)}')
    ended = run_edgellm("serve", "--config", config)
    assert ended.returncode == FAILED and "absent.gguf" in ended.stdout + ended.stderr
    config.with_name("two.toml").write_text(model("kiosk") + model("bad", absent))
    server = Gateway("--config", config.with_name("two.toml"))
    try:
        wait_until(lambda: "cannot be served" in server.log_text(), "the failure is told")
        ready = server.http("GET", "/ready")
        assert ready.status == 503
        assert ready.json()["models"] == [{"model": "bad", "reason": "failed"}]
        assert server.http("GET", "/ready?model=kiosk").status == 200
        assert chat(server, "kiosk").status == 200
        shutil.copy(MODEL, absent)
        wait_until(lambda: server.http("GET", "/ready").status == 200, "it is tried again", 30)
    finally:
        assert server.stop() == 0


def test_files_of_a_folder_are_models_as_soon_as_they_are_there(serve, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(MODEL, folder / "tea.gguf")
    (folder / "notes.txt").write_text("not a model")
    (folder / "half.gguf.part").write_bytes(b"GGUF")
    with serve(model("kiosk"), top=f'[pool]\nmodels_dir = "{folder}"\n') as server:
        ids = {entry["id"] for entry in server.http("GET", "/v1/models").json()["data"]}
        assert ids == {"kiosk", "tea"}
        assert state(server, "tea") == "cold"
        assert chat(server, "tea").json()["model"] == "tea"
        shutil.copy(MODEL, folder / "part")
        (folder / "part").rename(folder / "coffee.gguf")
        answer = wait_until(lambda: (answer := chat(server, "coffee")).status == 200 and answer, "coffee is found")
        assert answer.json()["model"] == "coffee"
        (folder / "coffee.gguf").unlink()
        server.post("/models/unload", {"model": "coffee"})
        wait_until(lambda: chat(server, "coffee").status == 404, "coffee is gone")


def test_only_a_folder_is_enough_and_an_empty_one_waits_for_files(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    config = tmp_path / "folder.toml"
    config.write_text(f'[pool]\nmodels_dir = "{folder}"\n')
    port = {"EDGELLM__SERVER__LISTEN": "127.0.0.1:0"}
    checked = run_edgellm("check-config", "--config", config, env=port)
    assert checked.returncode == 0, checked.stderr


def test_a_stream_says_what_it_waits_for_while_its_model_is_loaded(serve):
    # The trial of a new file and a large context make the load take a while.
    with serve(model("kiosk"), *[model(f"slow-{n}", preload=False, context=65536) for n in range(6)]) as server:
        results = {}

        def stream(id):
            connection = server.connect()
            body = {"model": id, "messages": ask("hi"), "stream": True, "max_tokens": 4}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            results[id] = (response.status, response.read().decode())
            connection.close()

        # All at once: they load one after the other, and the last ones wait for the first.
        threads = [threading.Thread(target=stream, args=(f"slow-{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(status == 200 and text.rstrip().endswith("data: [DONE]") for status, text in results.values()), results


def test_a_deadline_counts_while_a_model_is_loaded(serve):
    with serve(model("kiosk"), model("spare", preload=False)) as server:
        answer = chat(server, "spare", headers={"x-deadline-ms": "1"})
        assert (answer.status, answer.error()["code"]) == (503, "deadline_unreachable")
        assert chat(server, "spare").status == 200


def test_a_key_uses_no_model_by_another_name(serve, tmp_path):
    keys = tmp_path / "keys.toml"

    def add(name, *flags):
        return run_edgellm("keys", "add", name, "--file", keys, *flags).stdout.splitlines()[-1]

    till, boss = add("till", "--models", "small"), add("boss", "--admin")
    models = model("large", aliases=["gpt-4o"], default=True), model("small", aliases=["till-*"])
    with serve(*models, EDGELLM__AUTH__KEYS_FILE=str(keys)) as server:
        server.key = till
        for name in ("large", "gpt-4o", "unknown"):
            answer = chat(server, name)
            assert (answer.status, answer.error()["code"]) == (403, "model_not_allowed"), name
        assert chat(server, "till-7").json()["model"] == "small"
        for method, path in (("GET", "/models"), ("POST", "/models/load"), ("POST", "/models/unload")):
            answer = server.http(method, path, '{"model": "small"}', {"content-type": "application/json"})
            assert (answer.status, answer.error()["code"]) == (403, "admin_only"), path
        server.key = boss
        assert server.http("GET", "/models").status == 200


def test_chat_and_embedding_models_stand_side_by_side_and_each_is_the_default_of_its_kind(serve):
    with serve(model("kiosk"), model("minilm", EMBEDDER, preload=False)) as server:
        client = OpenAI(base_url=server.base_url, api_key="x", max_retries=0, timeout=60)
        assert len(client.embeddings.create(model="minilm", input="tea").data[0].embedding) == 384
        server.post("/models/unload", {"model": "minilm"})
        reaches(server, "minilm", "cold")
        # Named by nobody, it is found though it is cold.
        answer = server.post("/v1/embeddings", {"input": "tea"})
        assert answer.status == 200, answer.text
        assert answer.json()["model"] == "minilm"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="minilm", messages=ask("hi"))
        client.close()


def test_what_was_measured_is_remembered(serve, tmp_path):
    state_folder = tmp_path / "state"
    top = f'[state]\npath = "{state_folder}"\n'
    file = state_folder / "learnt/models.json"

    def remembered() -> dict:
        # What was tried is written first, and what it took when the server is ready already.
        try:
            read = json.loads(file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return read if read["models"] else {}

    with serve(model("kiosk"), top=top):
        wait_until(remembered, "the model is remembered")
    known = remembered()
    assert len(known["models"]) == 1
    file.write_text('{"half')
    with serve(model("kiosk"), top=top) as server:
        assert "cannot be read" in server.log_text()
        assert chat(server, "kiosk").status == 200
        wait_until(lambda: remembered() == known, "it is remembered as before")


def test_a_shutdown_while_a_model_is_loaded_ends_in_time(serve):
    with serve(model("kiosk"), model("spare", preload=False, context=65536)) as server:
        asked = ThreadPoolExecutor().submit(chat, server, "spare")
        began = time.monotonic()
        wait_until(lambda: state(server, "spare") != "cold", "it begins to load", 10)
        assert server.stop() == 0
        assert time.monotonic() - began < 20
        assert asked.result().status in (200, 503)


@pytest.fixture
def rehearsal(tmp_path):
    """A folder of pressures, and the settings that have the governor read it."""
    folder = tmp_path / "rehearsal"
    folder.mkdir()
    settings = {"ENABLED": "true", "REHEARSAL_DIR": str(folder), "ESCALATE_SECONDS": "0", "RECOVER_SECONDS": "1"}
    return folder, {f"EDGELLM__GOVERNOR__{name}": value for name, value in settings.items()}


@pytest.mark.parametrize(("resource", "pressure"), [("power", "0.89"), ("thermal", "0.83")])
def test_a_smaller_sibling_answers_while_power_or_heat_is_short(serve, rehearsal, resource, pressure):
    folder, env = rehearsal
    with serve(model("large", siblings=["small"]), model("small", preload=False), **env) as server:
        assert chat(server, "large").json()["model"] == "large"
        (folder / resource).write_text(pressure)

        def answered_by(wanted):
            answer = chat(server, "large")
            assert answer.status == 200, answer.text
            return answer if answer.json()["model"] == wanted else None

        answer = wait_until(lambda: answered_by("small"), "the sibling answers", 40)
        assert (answer.headers["x-edgellm-model"], answer.headers["x-edgellm-model-reason"]) == ("small", resource)
        assert state(server, "large") == "ready", "both are there"
        assert server.metric("edgellm_governor_measure_active", f'action="sibling",resource="{resource}"') == 1
        (folder / resource).unlink()
        answer = wait_until(lambda: answered_by("large"), "the larger one answers again", 60)
        assert "x-edgellm-model" not in answer.headers


def test_where_memory_is_short_the_larger_model_leaves_for_its_sibling_and_comes_back(serve, rehearsal):
    folder, env = rehearsal
    with serve(model("large", siblings=["small"]), model("small", preload=False), **env) as server:
        (folder / "memory").write_text("0.95")
        reaches(server, "large", "cold", 60)
        reaches(server, "small", "ready", 60)
        answer = chat(server, "large")
        assert answer.status == 200, answer.text
        assert (answer.json()["model"], answer.headers["x-edgellm-model-reason"]) == ("small", "memory")
        assert server.metric("edgellm_pool_evictions_total", 'reason="sibling"') == 1
        assert server.http("GET", "/ready?model=small").status == 200
        (folder / "memory").unlink()
        reaches(server, "large", "ready", 90)
        assert chat(server, "large").json()["model"] == "large"


def text(answer) -> str:
    assert answer.status == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_adapters_answer_as_models_of_their_own_and_come_and_go_while_requests_run(serve, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    same, strong = adapter(tmp_path / "same.gguf", 0.0), adapter(tmp_path / "strong.gguf", 2.0)
    adapter(folder / "late.gguf", 2.0)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, or not")
    adapters = [str(same), f"loud={strong}", str(tmp_path / "broken.gguf")]
    with serve(model("kiosk", aliases=["till"], adapters=adapters), top=f'[pool]\nmodels_dir = "{folder}"\n') as server:
        listed_ids = [entry["id"] for entry in server.http("GET", "/v1/models").json()["data"]]
        assert listed_ids == ["kiosk", "kiosk+loud", "kiosk+same"], "files of adapters are no models"
        assert server.http("GET", "/v1/models/kiosk+same").json()["edgellm"]["adapter_of"] == "kiosk"

        def answered(name, **parameters):
            return text(chat(server, name, temperature=0, max_tokens=24, **parameters))

        alone = answered("kiosk")
        assert answered("kiosk+same") == alone
        assert answered("till+same") == alone
        assert answered("kiosk+loud") != alone
        assert chat(server, "kiosk+loud").json()["model"] == "kiosk+loud"
        assert chat(server, "kiosk+broken").status == 500, "it is configured, and the log says why it is not there"
        assert chat(server, "kiosk+absent").status == 404

        # Added while others are served, and the same as the one of the configuration with its numbers.
        over = threading.Event()

        def busy():
            while not over.is_set():
                assert answered("kiosk") == alone

        with ThreadPoolExecutor(2) as clients:
            running = [clients.submit(busy) for _ in range(2)]
            try:
                for _ in range(3):
                    added = server.post("/models/load", {"model": "kiosk+late", "file": "late.gguf"})
                    assert added.status == 200, added.text
                    assert answered("kiosk+late") == answered("kiosk+loud")
                    assert server.post("/models/unload", {"model": "kiosk+late"}).status == 200
                    assert chat(server, "kiosk+late").status == 404
            finally:
                over.set()
            for client in running:
                client.result()
        for body, param in (({"model": "kiosk+late"}, "file"), ({"model": "kiosk+late", "file": "../same.gguf"}, "file"),
                            ({"model": "kiosk+late", "file": "/etc/passwd"}, "file"), ({"model": "kiosk", "file": "late.gguf"}, "file"),
                            ({"model": "kiosk+loud", "file": "late.gguf"}, "model")):
            answer = server.post("/models/load", body)
            assert (answer.status, answer.error()["param"]) == (400, param), (body, answer.text)
        assert server.post("/models/unload", {"model": "kiosk+late"}).status == 400
