from pathlib import Path

import documented
import pytest
from gateway import BINARY, EMBEDDER, MODEL, gateway
from gateway import both_models as gateway_both_models
from openai import OpenAI


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
