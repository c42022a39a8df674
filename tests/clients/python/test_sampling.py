"""`logit_bias`, penalties, `seed` and `stop`."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

QUESTION = "How much is the Brindle Oat Bar?"
LONG = {"temperature": 0, "max_tokens": 150, "ignore_eos": True}


def text(answer) -> str:
    assert answer.status == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def tokens_of(server, words: str) -> list[int]:
    answer = server.post("/tokenize", {"model": "kiosk", "prompt": words, "add_special_tokens": False})
    assert answer.status == 200, answer.text
    return answer.json()["tokens"]


def greedy_tokens(server, **parameters) -> list[str]:
    answer = server.chat(QUESTION, temperature=0, logprobs=True, **parameters)
    assert answer.status == 200, answer.text
    return [token["token"] for token in answer.json()["choices"][0]["logprobs"]["content"]]


def test_a_bias_of_minus_100_bans_a_token(server):
    first = greedy_tokens(server)[0]
    banned = {str(token): -100 for token in tokens_of(server, first)}
    assert greedy_tokens(server, logit_bias=banned)[0] != first


def test_a_bias_of_100_forces_a_token(server):
    [token] = tokens_of(server, "e")
    assert text(server.chat(QUESTION, temperature=0, max_tokens=4, logit_bias={str(token): 100})) == "eeee"


def test_a_small_bias_changes_little_and_a_bias_of_zero_nothing(server):
    [token] = tokens_of(server, "e")
    assert text(server.chat(QUESTION, temperature=0, logit_bias={str(token): 0})) == text(server.chat(QUESTION, temperature=0))


def test_a_bias_holds_in_every_choice_of_a_stream(server):
    [token] = tokens_of(server, "e")
    events = server.chat(QUESTION, n=2, max_tokens=4, logit_bias={str(token): 100}, stream=True).events()
    pieces = "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in event.json()["choices"])
    assert pieces == "eeeeeeee"


@pytest.mark.parametrize("bias", [{"no token": 1}, {"5": 101}, {"5": -101}, {"5": "much"}, {"5": None}, {"99999999": 5}, {"-1": 5}, {"5.5": 5}, [5], "5"])
def test_a_bias_that_is_wrong_is_named(server, bias):
    answer = server.chat(logit_bias=bias)
    assert answer.status == 400
    assert (answer.error()["param"] or "").startswith("logit_bias")


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_a_penalty_makes_answers_less_repetitive(server, penalty):
    def counts(**parameters) -> list[Counter]:
        answers = [server.chat(QUESTION, max_tokens=60, ignore_eos=True, temperature=1.5, seed=seed, logprobs=True, **parameters) for seed in range(24)]
        assert all(answer.status == 200 for answer in answers)
        return [Counter(token["token"] for token in answer.json()["choices"][0]["logprobs"]["content"]) for answer in answers]

    free, penalized = counts(), counts(**{penalty: 2})
    assert sum(map(len, penalized)) > sum(map(len, free))
    if penalty == "frequency_penalty":
        assert sum(max(count.values()) for count in penalized) < sum(max(count.values()) for count in free)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_a_negative_penalty_is_taken(server, penalty):
    assert text(server.chat(QUESTION, temperature=0, max_tokens=20, **{penalty: -2}))


def test_a_seed_gives_the_same_alone_and_among_eight_others(server):
    # Far behind the answer's end thousands of tokens are as likely, and how llama.cpp rounds in a batch of nine decides.
    sampled = {"temperature": 1.2, "top_p": 0.95, "max_tokens": 24, "ignore_eos": True}
    alone = text(server.chat(QUESTION, seed=42, **sampled))
    with ThreadPoolExecutor(9) as clients:
        others = [clients.submit(server.chat, f"{QUESTION} {'And the next one? ' * number}", seed=number, **sampled) for number in range(8)]
        among = text(clients.submit(server.chat, QUESTION, seed=42, **sampled).result())
        for other in others:
            assert text(other.result())
    assert among == alone


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_gives_the_same_whatever_was_cached(server, seed):
    """Nothing is cut off here, so the draw is among thousands of tokens that hardly differ in probability."""
    sampled = {"temperature": 1, "max_tokens": 60, "ignore_eos": True, "seed": seed}
    assert len({text(server.chat(QUESTION, **sampled)) for _ in range(8)}) == 1


def test_a_seed_gives_the_same_in_a_stream(server):
    sampled = {"temperature": 1.2, "max_tokens": 60, "ignore_eos": True, "seed": 42}
    events = server.chat(QUESTION, stream=True, **sampled).events()
    assert "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in event.json()["choices"]) == text(server.chat(QUESTION, **sampled))


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_every_integer_is_a_seed(server, seed):
    sampled = {"temperature": 1.5, "max_tokens": 10, "ignore_eos": True, "seed": seed}
    assert text(server.chat(QUESTION, **sampled)) == text(server.chat(QUESTION, **sampled))


def test_the_fingerprint_stays_while_the_model_stays(server):
    first, second = (server.chat(max_tokens=1).json()["system_fingerprint"] for _ in range(2))
    assert first and first == second


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_up_to_four_stop_strings_end_the_answer(server, count):
    whole = text(server.chat(QUESTION, **LONG))
    stops = [whole[at:at + 5] for at in (40, 55, 70, 85)][:count]
    answer = server.chat(QUESTION, stop=stops, **LONG)
    assert text(answer) == whole[:min(whole.index(stop) for stop in stops)]
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


def test_a_stop_string_is_found_across_the_border_of_two_tokens(server):
    tokens = greedy_tokens(server)
    whole = "".join(tokens)
    at = next(index for index in range(2, len(tokens) - 1) if len(tokens[index]) > 1 and len(tokens[index + 1]) > 1)
    stop = tokens[at][-1] + tokens[at + 1][0]
    assert text(server.chat(QUESTION, temperature=0, stop=stop)) == whole[:whole.index(stop)]
    events = server.chat(QUESTION, temperature=0, stop=stop, stream=True).events()
    assert "".join(choice["delta"].get("content") or "" for event in events[:-1] for choice in event.json()["choices"]) == whole[:whole.index(stop)]


def test_a_stop_string_that_never_comes_changes_nothing(server):
    whole = server.chat(QUESTION, temperature=0).json()["choices"]
    with_stop = server.chat(QUESTION, temperature=0, stop="never in it, not even a part").json()["choices"]
    assert with_stop == whole


def test_the_beginning_of_a_stop_string_that_does_not_go_on_is_text(server):
    whole = text(server.chat(QUESTION, temperature=0))
    assert text(server.chat(QUESTION, temperature=0, stop=whole[-4:] + "and more")) == whole
