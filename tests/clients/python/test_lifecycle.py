"""Start-up failures and shutdown: clear words, the right exit code, nothing cut short."""

import json
import socket
import struct
from contextlib import suppress

import pytest
from gateway import CONFIG, MODEL, events, free_port, gateway, open_stream, run_edgellm, wait_until

FAILED, MISCONFIGURED = 1, 2


def serve(*arguments, **options):
    return run_edgellm("serve", "--listen", f"127.0.0.1:{free_port()}", *arguments, **options)


def complains(process, exit_code: int, *words: str):
    """The binary ended with this exit code and one understandable message."""
    said = process.stdout + process.stderr
    assert process.returncode == exit_code, said
    for word in words:
        assert word in said, said
    for noise in ("panicked", "RUST_BACKTRACE", "stack backtrace", "core dumped"):
        assert noise not in said, said


def gguf(architecture: str) -> bytes:
    """The smallest GGUF file: version 3, no tensors, one key."""
    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("general.architecture") + struct.pack("<I", 8) + string(architecture)


def test_a_missing_model_is_named(tmp_path):
    complains(serve("--config", CONFIG, "--model", tmp_path / "absent.gguf"), FAILED, "absent.gguf")


def test_a_truncated_model_is_named(tmp_path):
    (tmp_path / "half.gguf").write_bytes(MODEL.read_bytes()[: MODEL.stat().st_size // 2])
    complains(serve("--config", CONFIG, "--model", tmp_path / "half.gguf"), FAILED, "half.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"Dear shopkeeper, this is a text file.\n" * 50, gguf("llama")[:-3]])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    (tmp_path / "letter.gguf").write_bytes(content)
    complains(serve("--config", CONFIG, "--model", tmp_path / "letter.gguf"), FAILED, "letter.gguf")


def test_a_directory_in_place_of_a_model_is_named(tmp_path):
    complains(serve("--config", CONFIG, "--model", tmp_path), FAILED, str(tmp_path))


def test_an_unknown_architecture_is_named(tmp_path):
    (tmp_path / "future.gguf").write_bytes(gguf("nonesuch"))
    complains(serve("--config", CONFIG, "--model", tmp_path / "future.gguf"), FAILED, "nonesuch")


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        complains(run_edgellm("serve", "--config", CONFIG, "--model", MODEL, "--listen", address), FAILED, address)


def test_a_missing_config_file_is_named(tmp_path):
    complains(serve("--config", tmp_path / "absent.toml"), MISCONFIGURED, "absent.toml")


def test_an_unknown_key_brings_the_nearest_to_mind(tmp_path):
    (tmp_path / "typo.toml").write_text('[server]\nlisen = "127.0.0.1:8080"\n')
    complains(serve("--config", CONFIG, "--config", tmp_path / "typo.toml"), MISCONFIGURED, "lisen", "listen", "typo.toml")


def test_broken_toml_is_named(tmp_path):
    (tmp_path / "broken.toml").write_text("[server\n")
    complains(serve("--config", tmp_path / "broken.toml"), MISCONFIGURED, "broken.toml")


@pytest.mark.parametrize(("variable", "value"), [("EDGELLM__SERVER__LISTEN", "everywhere"), ("EDGELLM__SCHEDULER__TARGET_INTER_TOKEN_MS", "soon"),
                                                 ("EDGELLM__SERVER__LISEN", "127.0.0.1:8080")])
def test_a_bad_environment_variable_is_named(variable, value):
    # No --listen here: a flag would hide the value that must be refused.
    complains(run_edgellm("serve", "--config", CONFIG, env={variable: value}), MISCONFIGURED, variable.rsplit("__", 1)[1].lower())


@pytest.mark.parametrize("arguments", [("--listen", "everywhere"), ("--context", "-1"), ("--context", "0"), ("--max-running", "0"), ("--threads", "-1"), ("--unknown-flag",)])
def test_a_bad_flag_is_refused(arguments):
    complains(run_edgellm("serve", "--config", CONFIG, *arguments), MISCONFIGURED)


def test_check_config_shows_the_settings_that_hold():
    shown = run_edgellm("check-config", "--config", CONFIG, env={"EDGELLM__SERVER__LISTEN": "127.0.0.1:4321"})
    assert shown.returncode == 0, shown.stderr
    assert "127.0.0.1:4321" in shown.stdout


def test_check_config_lists_every_mistake(tmp_path):
    (tmp_path / "two.toml").write_text('[server]\nlisen = "127.0.0.1:8080"\n[scheduler]\ntarget_inter_token_ms = "soon"\n')
    complains(run_edgellm("check-config", "--config", CONFIG, "--config", tmp_path / "two.toml"), MISCONFIGURED, "lisen", "target_inter_token_ms")


def test_health_fails_where_no_server_is():
    assert run_edgellm("health", f"http://127.0.0.1:{free_port()}").returncode == FAILED


def test_shutdown_lets_a_running_stream_end_and_takes_nothing_new():
    with gateway() as server:
        connection, response = open_stream(server, max_tokens=1800, stream_options={"include_usage": True})
        server.process.terminate()
        # A new request is refused by a server that drains, or finds nobody listening.
        with suppress(OSError):
            wait_until(lambda: server.http("GET", "/ready").status == 503, "the server drains")
            # Those that were on their way are still answered.
            late = wait_until(lambda: next((answer for answer in [server.chat(max_tokens=1)] if answer.status != 200), None), "new ones are refused")
            assert late.status == 503 and late.error()["code"] == "draining"
            assert int(late.headers["retry-after"]) > 0
        *_, finish, usage, done = events(response)
        connection.close()
        assert json.loads(finish)["choices"][0]["finish_reason"] == "length"
        assert json.loads(usage)["usage"]["completion_tokens"] == 1800
        assert done == "[DONE]"
        assert server.process.wait(30) == 0, server.log_text()


def test_shutdown_without_work_is_at_once():
    with gateway() as server:
        assert server.stop(seconds=5) == 0
