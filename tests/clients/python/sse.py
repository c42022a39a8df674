"""Server-sent events, read as the HTML standard says."""

import json
from dataclasses import dataclass, field

DONE = "[DONE]"


@dataclass
class Event:
    """One event: what its `id`, `event` and `data` lines say."""

    data: str
    id: str | None = None
    event: str | None = None

    def json(self):
        return json.loads(self.data)


@dataclass
class Reader:
    """Takes the lines of a stream and gives its events and comments."""

    events: list[Event] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    _fields: dict[str, str] = field(default_factory=dict)

    def line(self, line: str) -> Event | None:
        """Takes one line without its end; gives the event that it ends, if it ends one."""
        if line.startswith(":"):
            self.comments.append(line[1:].strip())
        elif line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            self._fields[name] = f"{self._fields[name]}\n{value}" if name == "data" and name in self._fields else value
        elif "data" in self._fields:
            self.events.append(Event(self._fields.pop("data"), self._fields.get("id"), self._fields.pop("event", None)))
            self._fields.pop("id", None)
            return self.events[-1]
        return None


def read(text: str) -> Reader:
    """All events of a stream that has ended; one that was cut off is not among them."""
    reader = Reader()
    for line in text.split("\n"):
        reader.line(line.removesuffix("\r"))
    return reader
