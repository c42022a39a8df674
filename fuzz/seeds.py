"""Writes the request bodies of OpenAI's examples as seeds.

usage: seeds.py OPENAPI_JSON    writes seeds/body/openai-*.json beside this file

The description is openapi.json of github.com/openai/openai-openapi (MIT, see tests/clients/openai/LICENSE).
"""

import json
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    description = json.loads(Path(sys.argv[1]).read_text())
    seeds = Path(__file__).parent / "seeds/body"
    for path in ("/chat/completions", "/completions", "/embeddings", "/responses"):
        examples = description["paths"][path]["post"]["x-oaiMeta"]["examples"]
        for example in examples if isinstance(examples, list) else [examples]:
            body = re.search(r"-d\s+(['\"])(.*)\1", example["request"]["curl"], re.DOTALL)
            title = re.sub(r"\W+", "-", f"{path[1:]} {example.get('title', 'default')}".lower())
            (seeds / f"openai-{title}.json").write_text(json.dumps(json.loads(body[2]), indent=1, ensure_ascii=False) + "\n")
