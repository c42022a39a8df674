from contextlib import ExitStack
from pathlib import Path

import documented
import pytest
from gateway import BINARY, EMBEDDER, MODEL, gateway, real_model
from gateway import both_models as gateway_both_models
from openai import OpenAI
from real_models import MODELS as REAL_MODELS


def pytest_configure(config):
    for name in REAL_MODELS:
        config.addinivalue_line("markers", f"{name}: wants this real model; set for whatever uses the fixture of that name")
    config.addinivalue_line("markers", "docs: runs the examples of README.md and docs/")
    config.addinivalue_line("markers", "pool: wants several real models at once")


def pytest_collection_modifyitems(items):
    """Lets ./test.sh run what wants a real model in a stage of its own, which says so where the model cannot be had."""
    for item in items:
        for name in set(REAL_MODELS) & set(item.fixturenames):
            item.add_marker(name)


def pytest_sessionstart():
    for needed in (BINARY, MODEL, EMBEDDER):
        if not needed.exists():
            pytest.exit(f"{needed} is missing: run ./test.sh, which builds it", returncode=2)
    documented.install()


@pytest.fixture(autouse=True)
def everything_is_as_openai_documents_it():
    """Every request that was taken, every response, chunk and error of the test, whichever client received it."""
    yield
    wrong = documented.complaints[:]
    documented.complaints.clear()
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def both_models(tmp_path_factory) -> Path:
    return gateway_both_models(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def server():
    with gateway() as running:
        yield running
        assert running.stop() == 0, running.log_text()
        assert "panicked" not in running.log_text()


@pytest.fixture(scope="session")
def client(server):
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=60) as sdk:
        yield sdk


def fetched(name: str) -> Path:
    path = real_model(name)
    assert path.exists(), f"{path} is missing: `./test.sh {name}` fetches it; EDGELLM_{name.upper()} says where another one is"
    return path


@pytest.fixture
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return fetched("smollm2")


@pytest.fixture
def qwen() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct, Q4_K_M."""
    return fetched("qwen")


@pytest.fixture
def gemma() -> Path:
    """Gemma 3 270M, Q4_K_M: no chat template, and a sliding window of 512 tokens."""
    return fetched("gemma")


@pytest.fixture
def serving():
    """Starts a server with a model and flags, as in `serving(smollm2, "--threads", 1)`; it ends with the test."""
    with ExitStack() as servers:
        started = []

        def serve(model: Path, *flags, env: dict[str, str] | None = None):
            started.append(servers.enter_context(gateway("--model", model, *flags, env=env)))
            return started[-1]

        yield serve
        for server in started:
            assert server.stop() == 0, server.log_text()
            assert "panicked" not in server.log_text()
