"""What clients see when the process ends under them and is started again: OpenAI's SDK, and docs/restarts.md by its words."""

import os
import re
import shlex
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import openai
import pytest
import sse
from gateway import ROOT, Gateway, ask, free_port, open_stream, wait_until
from openai import OpenAI

UNIT = (ROOT / "deploy/edgellm.service").read_text()
PAGE = (ROOT / "docs/restarts.md").read_text()
# More than the page advises: a busy machine may need some seconds to start the process.
RETRIES = 8
QUESTION = {"model": "kiosk", "messages": ask("Where is the coffee?"), "temperature": 0}
# Longer than it takes to notice that it runs, and to kill it.
# It goes on with a word that the model repeats: past what it has to say, another process may round to another token.
LONG = {**QUESTION, "max_tokens": 1000, "messages": [*QUESTION["messages"], {"role": "assistant", "content": "ha" * 24}],
        "extra_body": {"ignore_eos": True, "continue_final_message": True}}


def unit(key: str) -> str:
    [value] = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return value


class Supervisor:
    """Does for a server what systemd does by our unit: starts it again, and notes how it ended."""

    def __init__(self, runtime_directory):
        self.port, self.runtime_directory = free_port(), runtime_directory
        self.ended, self.servers = threading.Event(), []
        self._start()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    @property
    def server(self) -> Gateway:
        """The one that runs, or that ran last."""
        return self.servers[-1]

    def _start(self):
        self.servers.append(Gateway(port=self.port, env={"RUNTIME_DIRECTORY": str(self.runtime_directory)}))

    def _watch(self):
        while True:
            code = self.server.process.wait()
            self._note_end(code)
            milliseconds = int(unit("RestartSec").removesuffix("ms"))
            if self.ended.wait(milliseconds / 1000):
                return
            self._start()

    def _note_end(self, code: int):
        told = ("signal", "killed", signal.Signals(-code).name.removeprefix("SIG")) if code < 0 else ("success" if code == 0 else "exit-code", "exited", str(code))
        env = dict(zip(("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"), told, strict=True))
        subprocess.run(shlex.split(unit("ExecStopPost")), env={**os.environ, **env, "RUNTIME_DIRECTORY": str(self.runtime_directory)}, check=True, timeout=30)

    def wait_ready(self):
        def ready():
            try:
                return self.server.http("GET", "/ready").status == 200
            except OSError:
                return False

        wait_until(ready, f"it is ready again:\n{self.server.log_text()}", 60)

    def wait_busy(self):
        wait_until(lambda: self.server.metric("edgellm_requests_running") == 1, "the request runs")

    def kill(self):
        self.server.process.kill()

    def ends(self, reason: str) -> float:
        return self.server.metric("edgellm_process_ends_total", f'reason="{reason}"')

    def close(self):
        self.ended.set()
        self.server.process.terminate()
        self.thread.join(60)
        for server in self.servers:
            server.log.close()


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    supervisor = Supervisor(tmp_path_factory.mktemp("run"))
    yield supervisor
    supervisor.close()


@pytest.fixture
def shop(supervised):
    supervised.wait_ready()
    yield supervised
    assert all("panicked" not in server.log_text() for server in supervised.servers)


@pytest.fixture
def till(shop):
    with OpenAI(base_url=shop.server.base_url, api_key="unused", max_retries=RETRIES, timeout=60) as sdk:
        yield sdk


@pytest.fixture
def impatient(shop):
    with OpenAI(base_url=shop.server.base_url, api_key="unused", max_retries=0, timeout=60) as sdk:
        yield sdk


def killed_and_back(shop: Supervisor):
    before = len(shop.servers)
    shop.kill()
    wait_until(lambda: len(shop.servers) > before, "it is started again")
    shop.wait_ready()


def said(completion) -> str:
    return completion.choices[0].message.content


def test_the_sdk_gets_its_answer_from_the_next_process(shop, till):
    expected = said(till.chat.completions.create(**LONG))
    before = len(shop.servers)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(till.chat.completions.with_raw_response.create, **LONG)
        shop.wait_busy()
        shop.kill()
        response = waiting.result(60)
    assert response.retries_taken >= 1 and len(shop.servers) == before + 1
    completion = response.parse()
    assert (said(completion), completion.choices[0].finish_reason) == (expected, "length")


def test_a_broken_stream_is_an_error_and_what_has_come_is_the_beginning_of_the_whole(shop, till):
    pieces, reasons = [], []
    with pytest.raises(openai.APIConnectionError):
        for chunk in till.chat.completions.create(stream=True, **LONG):
            pieces.append(chunk.choices[0].delta.content or "")
            reasons.append(chunk.choices[0].finish_reason)
            if len(pieces) == 5:
                shop.kill()
    assert "".join(pieces) and set(reasons) == {None}
    whole = said(till.chat.completions.create(**LONG))
    assert whole.startswith("".join(pieces)) and len(whole) > len("".join(pieces))


def test_a_stream_under_the_readers_eyes_is_begun_anew_as_the_page_says(shop, till):
    advised: dict = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, advised)  # noqa: S102
    shown = []

    def show(text: str):
        shown.append(text)
        if len(shown) == 5:
            shop.kill()

    text = advised["answer"](till, show, **LONG)
    advised["client"].close()
    assert text == shown[-1] == said(till.chat.completions.create(**LONG))
    assert sum(len(now) < len(before) for before, now in pairwise(shown)) == 1


def test_a_stream_of_a_process_that_is_gone_cannot_be_resumed(shop):
    headers = {"content-type": "application/json", "x-request-id": "till-3-restart"}
    connection = shop.server.connect()
    request = '{"model": "kiosk", "stream": true, "ignore_eos": true, "max_tokens": 1000, "messages": [{"role": "user", "content": "Hello"}]}'
    connection.request("POST", "/v1/chat/completions", request, headers)
    reader, response = sse.Reader(), connection.getresponse()
    while len(reader.events) < 3:
        reader.line(response.readline().decode().rstrip("\r\n"))
    killed_and_back(shop)
    connection.close()
    refused = shop.server.http("POST", "/v1/chat/completions", request, {**headers, "last-event-id": reader.events[-1].id})
    assert (refused.status, refused.error()["code"]) == (404, "stream_not_found")
    assert "ask again without `Last-Event-ID`" in refused.error()["message"]
    # As advised.
    again = shop.server.http("POST", "/v1/chat/completions", request, headers)
    assert again.status == 200 and again.events()[-1].data == sse.DONE


def test_stored_responses_are_gone_and_the_error_says_what_to_do(shop, till):
    first = till.responses.create(model="kiosk", input="Hello", max_output_tokens=16)
    assert till.responses.retrieve(first.id).id == first.id
    killed_and_back(shop)
    with pytest.raises(openai.NotFoundError, match="not found") as gone:
        till.responses.retrieve(first.id)
    assert gone.value.code == "response_not_found" and first.id in gone.value.message
    # As OpenAI answers.
    with pytest.raises(openai.BadRequestError, match="send the earlier items in `input`") as gone:
        till.responses.create(model="kiosk", input="And then?", previous_response_id=first.id)
    assert gone.value.code == "previous_response_not_found"


def refusal(client):
    """The error of a request that is refused, None for one that is answered."""
    try:
        client.chat.completions.create(**QUESTION)
    except openai.InternalServerError as error:
        return error
    return None


def test_a_stop_lets_answers_end_and_the_sdk_brings_new_requests_to_the_next_process(shop, till, impatient):
    expected = said(till.chat.completions.create(**QUESTION))
    before = len(shop.servers)
    stopped = shop.ends("stopped")
    pieces = []
    with ThreadPoolExecutor(1) as pool:
        for chunk in till.chat.completions.create(stream=True, **{**LONG, "max_tokens": 1900}):
            if not pieces:
                shop.server.process.terminate()
                wait_until(lambda: shop.server.http("GET", "/ready").status == 503, "it drains")
                # Those that were on their way are still answered.
                refused = wait_until(lambda: refusal(impatient), "new requests are refused")
                late = pool.submit(till.chat.completions.with_raw_response.create, **QUESTION)
            pieces.append(chunk.choices[0])
        assert len(pieces) > 1 and pieces[-1].finish_reason == "length"
        assert refused.status_code == 503 and refused.code == "draining"
        assert int(refused.response.headers["retry-after"]) > 0
        assert shop.servers[before - 1].process.wait(30) == 0
        response = late.result(60)
    assert said(response.parse()) == expected
    assert response.retries_taken >= 1 and len(shop.servers) == before + 1
    shop.wait_ready()
    assert shop.ends("stopped") == stopped + 1
    assert "did not end by itself" not in shop.server.log_text()


@pytest.mark.parametrize(("name", "reason"), [("KILL", "killed"), ("ABRT", "crashed")])
def test_an_end_that_nobody_asked_for_is_counted_and_said(shop, name, reason):
    ended, starts, pid = shop.ends(reason), shop.server.metric("edgellm_process_starts_total"), shop.server.process.pid
    connection, response = open_stream(shop.server)
    before = len(shop.servers)
    shop.server.process.send_signal(signal.Signals[f"SIG{name}"])
    wait_until(lambda: len(shop.servers) > before, "it is started again")
    response.close()
    connection.close()
    shop.wait_ready()
    assert shop.ends(reason) == ended + 1
    assert shop.server.metric("edgellm_process_starts_total") == starts + 1
    [line] = [line for line in shop.server.log_text().splitlines() if "the process before this one did not end by itself" in line]
    assert f'"pid":{pid}' in line and f"signal killed {name}" in line and '"ERROR"' in line


def test_without_a_place_to_count_there_are_no_counts(server):
    """An unknown reading is an absent series, never 0."""
    assert "edgellm_process_" not in re.sub("edgellm_process_memory_bytes", "", server.metrics())


def test_nothing_that_was_said_can_end_in_a_core_dump(server):
    of_process = f"/proc/{server.process.pid}"
    with open(f"{of_process}/limits") as limits:
        [soft] = re.findall(r"^Max core file size +(\S+)", limits.read(), re.MULTILINE)
    with open(f"{of_process}/coredump_filter") as file:
        assert (soft, int(file.read(), 16)) == ("0", 0)
