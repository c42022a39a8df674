"""The text of a conversation, exactly as `chat_template.jinja` renders it."""

import json

from dialogue import Turn
from tools import Tool

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = [PAD, START, END]
TAGS = ["<tool_call>", "</tool_call>"]


def system_text(system: str, tools: list[Tool], spaced: bool = True) -> str:
    """The system turn. Template engines differ in the spaces of `tojson`, so training sees both."""
    if tools:
        separators = (", ", ": ") if spaced else (",", ":")
        lines = "\n".join(
            json.dumps(tool.schema, ensure_ascii=False, separators=separators) + "\n" + example_call(tool.schema)
            for tool in tools
        )
        system += ("\n\n" if system else "") + f"# Tools\n<tools>\n{lines}\n</tools>"
    return f"{START}system\n{system}{END}\n"


def example_call(schema: dict) -> str:
    """What the tool does and how it is called, once more: a small model finds the name right behind the words that
    tell it from others, not before them as in the schema.
    """
    function = schema["function"]
    parameters = function.get("parameters", {})
    properties = list(parameters.get("properties", {}))
    given = parameters.get("required", properties[:1])
    arguments = ", ".join(f'"{name}": "..."' for name in properties if name in given)
    purpose = function.get("description", function["name"])[:60]
    return f'{purpose} {{"name": "{function["name"]}", "arguments": {{{arguments}}}}}'


def question_text(turn: Turn) -> str:
    content = f"<tool_response>\n{turn.user}\n</tool_response>" if turn.role == "tool" else turn.user
    return f"{START}user\n{content}{END}\n{START}assistant\n"
