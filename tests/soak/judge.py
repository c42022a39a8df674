"""What a soak's figures must be. Nothing here asks a server: series of numbers go in, findings come out."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median

MIB = 1 << 20
#: The first third is left out, and five minutes at least: caches fill, threads are started, allocators take their share.
WARM_UP = 1 / 3
WARM_UP_SECONDS = 300
#: What is left after that must be so long, or it says nothing.
JUDGED_SECONDS = 180
SEGMENTS = 8
#: A leak comes back with the work, segment after segment; that an allocator takes another arena happens once.
MOST_STEADY_BYTES_PER_MINUTE = MIB // 2
#: And even what comes in steps must end somewhere.
MOST_BYTES_IN_ALL = 32 * MIB
#: What a segment's floor may differ by for no reason, which counts in short runs only.
NOISE_BYTES = MIB // 2
#: Sockets of the scrape that looks, and those of clients that closed a moment ago.
MOST_MORE_FILES = 4
#: Threads that the runtime starts for blocking work: eight at most (`max_blocking_threads`), and they stay, because files are looked at every second.
MOST_MORE_THREADS = 8


@dataclass(frozen=True)
class Growth:
    """How memory grew after the warm-up."""

    steady_bytes_per_minute: float
    bytes_in_all: float
    minutes: float

    @property
    def is_leak(self) -> bool:
        steady = max(MOST_STEADY_BYTES_PER_MINUTE * self.minutes, NOISE_BYTES * SEGMENTS)
        return self.steady_bytes_per_minute * self.minutes > steady or self.bytes_in_all > MOST_BYTES_IN_ALL


def growth(samples: list[tuple[float, float]]) -> Growth | None:
    """Of samples (seconds, bytes); None where the run was too short to tell.

    Memory is cut into segments, and the floors of these are compared in two ways. The median of the differences from one to the next does
    not see a step, which is no leak, but is noisy. The median of the slopes of all pairs is steady, but takes a step for a slope. A leak
    shows in both, so the smaller one counts."""
    first, last = samples[0][0], samples[-1][0]
    begin = first + max(WARM_UP * (last - first), WARM_UP_SECONDS)
    if last - begin < JUDGED_SECONDS:
        return None
    length = (last - begin) / SEGMENTS
    floors = []
    for number in range(SEGMENTS):
        values = sorted(value for at, value in samples if begin + number * length <= at <= begin + (number + 1) * length)
        assert values, "too few samples"
        # Requests that are being answered take memory for a moment, so the lower values tell more than the higher ones.
        floors.append(values[len(values) // 4])
    slopes = [(floors[after] - floors[before]) / (after - before) for before, after in combinations(range(SEGMENTS), 2)]
    differences = [after - before for before, after in pairwise(floors)]
    return Growth(60 * min(median(slopes), median(differences)) / length, floors[-1] - floors[0], (last - begin) / 60)


@dataclass(frozen=True)
class Ledger:
    """Requests as the clients saw them: those that got a status, and those that left before they could."""

    answered: int
    left_before: int

    def agrees_with(self, counted: float) -> bool:
        return self.answered <= counted <= self.answered + self.left_before


@dataclass
class Soak:
    """Everything that was seen."""

    memory: list[tuple[float, float]]
    files: tuple[int, int]
    threads: tuple[int, int]
    at_the_end: dict[str, float]
    cells: list[float]
    ledger: Ledger
    counted: float
    server_errors: float
    outcomes: Counter
    unexpected: list[str]
    log_complaints: list[str]
    wanted: set[str]


def findings(soak: Soak) -> list[str]:
    """What is not as it should be; empty is a pass."""
    found = []
    grew = growth(soak.memory)
    if grew and grew.is_leak:
        found.append(f"memory grows: {grew.steady_bytes_per_minute / MIB:.2f} MiB a minute, {grew.bytes_in_all / MIB:.1f} MiB in {grew.minutes:.1f} minutes")
    for what, (before, after), more in (("files", soak.files, MOST_MORE_FILES), ("threads", soak.threads, MOST_MORE_THREADS)):
        if after > before + more:
            found.append(f"{what} are left open: {before} at the start, {after} at the end")
    found += [f"after everybody has gone {name} is {value:g}" for name, value in soak.at_the_end.items() if value != 0]
    if len(set(soak.cells)) != 1:
        found.append(f"cells of the KV cache are lost or made up: there were {sorted(set(soak.cells))}")
    if not soak.ledger.agrees_with(soak.counted):
        found.append(f"the server has counted {soak.counted:g} requests; clients saw {soak.ledger.answered} answered, and {soak.ledger.left_before} left before they could see")
    if soak.server_errors:
        found.append(f"{soak.server_errors:g} requests ended in a 500")
    found += [f"it never happened that: {name}" for name in sorted(soak.wanted - set(soak.outcomes))]
    found += [f"unexpected: {text}" for text in soak.unexpected]
    found += [f"in the log: {line}" for line in soak.log_complaints]
    return found
