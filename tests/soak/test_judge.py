"""The soak would notice what it is there for: made-up figures, with one thing wrong in each."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from judge import MIB, Ledger, Soak, findings, growth

MINUTES = 20


def memory(shape, minutes: float = MINUTES, noise: float = 4.0) -> list[tuple[float, float]]:
    """A sample each two seconds of `shape(minutes)` in MiB, and requests that take a little for a moment."""
    lots = random.Random(1)
    return [(at, MIB * (200 + shape(at / 60) + lots.expovariate(1 / noise))) for at in range(0, round(60 * minutes), 2)]


def flat(_: float) -> float:
    return 0


@pytest.fixture
def well() -> Soak:
    return Soak(memory=memory(flat), files=(20, 21), threads=(23, 25), at_the_end={"edgellm_requests_running": 0}, cells=[16384.0] * 9,
                ledger=Ledger(1000, 50), counted=1020, server_errors=0, outcomes=Counter({"whole stream": 9}), unexpected=[], log_complaints=[], wanted={"whole stream"})


def test_a_server_that_is_well_passes(well):
    assert findings(well) == []


@pytest.mark.parametrize("shape", [
    flat, lambda at: 60 * min(at / 5, 1), lambda at: 20 if at > 10 else 0, lambda at: 20 if at > 18 else 0, lambda at: -at, lambda at: 5 * (at % 2), lambda at: 0.2 * at,
], ids=["flat", "it fills for five minutes", "a step in the middle", "a step near the end", "it shrinks", "it comes and goes", "a fifth of a megabyte a minute"])
def test_what_ends_somewhere_is_no_leak(shape):
    assert not growth(memory(shape)).is_leak


@pytest.mark.parametrize("shape", [
    lambda at: at, lambda at: 0.8 * at, lambda at: 10 * (at // 2), lambda at: 12 * (at // 3), lambda at: 40 if at > 12 else 0, lambda at: 60 * min(at / 5, 1) + at,
], ids=["a megabyte a minute", "less than that", "ten each two minutes", "twelve each three minutes", "one step that is too large", "it fills, and leaks besides"])
def test_what_goes_on_is_a_leak(well, shape):
    [finding] = findings(replace(well, memory=memory(shape)))
    assert finding.startswith("memory grows")


def test_a_short_run_tells_less_and_one_that_is_too_short_nothing(well):
    assert not growth(memory(flat, 9)).is_leak
    assert not growth(memory(lambda at: 0.5 * at, 9)).is_leak
    assert growth(memory(lambda at: 3 * at, 9)).is_leak
    assert growth(memory(lambda at: 9 * at, 7)) is None
    assert findings(replace(well, memory=memory(lambda at: 9 * at, 7))) == []


@pytest.mark.parametrize(("wrong", "said"), [
    ({"files": (20, 40)}, "files are left open"), ({"threads": (23, 60)}, "threads are left open"), ({"at_the_end": {"edgellm_requests_running": 1}}, "edgellm_requests_running is 1"),
    ({"cells": [16384, 16380]}, "cells of the KV cache"), ({"counted": 999}, "counted 999"), ({"counted": 1051}, "counted 1051"), ({"server_errors": 1}, "ended in a 500"),
    ({"outcomes": Counter()}, "it never happened that: whole stream"), ({"unexpected": ["kiosk: 404"]}, "kiosk: 404"), ({"log_complaints": ["panicked"]}, "panicked"),
])
def test_one_thing_that_is_wrong_is_one_finding(well, wrong, said):
    [finding] = findings(replace(well, **wrong))
    assert said in finding
