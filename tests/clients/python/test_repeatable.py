"""The same request has the same answer, bit by bit: docs/repeatable-answers.md says when.

Compared are the likelihoods of the tokens and of their rivals as well: rounding shows there long before it changes a word."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

SHORT = "What is the capital of France?"
# Longer than what is computed at once.
LONG = "".join(f"Item {number} costs {number * 7 % 90} euro and is in aisle {number % 13}. " for number in range(30)) + "Where is item 7?"
SAMPLED = [{"temperature": 0}, {"temperature": 0.9, "seed": 7}]


def ask(server, model, messages, **parameters):
    """What it says, and how likely each token and its rivals were."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model.stem, "messages": messages, "max_tokens": 16, "logprobs": True, "top_logprobs": 5, **parameters}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.text
    [choice] = answer.json()["choices"]
    return choice["message"]["content"], repr(choice["logprobs"])


@contextmanager
def company(server, model, clients=3):
    """Others ask all the while."""
    over = False

    def chatter(client: int):
        number = 0
        while not over:
            number += 1
            ask(server, model, f"Tell me something about the number {client * 1000 + number}.", temperature=1, max_tokens=40)

    with ThreadPoolExecutor(clients) as pool:
        chatting = [pool.submit(chatter, client) for client in range(clients)]
        try:
            yield
        finally:
            over = True
        for one in chatting:
            one.result()


@pytest.mark.parametrize("parameters", SAMPLED, ids=["greedy", "seeded"])
def test_twelve_equal_requests_have_one_answer(serving, smollm2, parameters):
    """The first computes its prompt, the others find it: with the default number of threads, and with one after a restart."""
    answers = []
    for flags, times in (([], 12), (["--threads", 1], 2)):
        server = serving(smollm2, "--context", 8192, *flags)
        for question in (SHORT, LONG, SHORT):
            answers.append((question, {ask(server, smollm2, question, **parameters) for _ in range(times)}))
    for question in (SHORT, LONG):
        said = set().union(*(found for asked, found in answers if asked == question))
        assert len(said) == 1, f"{len(said)} answers, {len({text for text, _ in said})} of them in other words"


def test_what_was_asked_before_changes_nothing(serving, smollm2):
    server = serving(smollm2, "--context", 8192)
    first = ask(server, smollm2, SHORT, temperature=0)
    with company(server, smollm2):
        pass
    for number in range(6):
        ask(server, smollm2, f"{'Well. ' * number}Name {number} colours.", temperature=0, max_tokens=8)
        assert ask(server, smollm2, SHORT, temperature=0) == first


def test_a_second_turn_is_the_same_whether_the_first_is_remembered_or_not(serving, smollm2):
    server = serving(smollm2, "--context", 8192)
    turns = [{"role": "user", "content": SHORT}]
    said, _ = ask(server, smollm2, turns, temperature=0)
    turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "And of Italy?"}]
    remembered = ask(server, smollm2, turns, temperature=0)
    assert ask(serving(smollm2, "--context", 8192), smollm2, turns, temperature=0) == remembered


def test_an_answer_that_drafts_is_the_same_each_time(serving, smollm2):
    server = serving(smollm2, "--context", 8192, env={"EDGELLM__SCHEDULER__SPECULATION": "on"})
    expected, _ = ask(server, smollm2, SHORT, temperature=0)
    predicted = {"temperature": 0, "prediction": {"type": "content", "content": expected}}
    assert len({ask(server, smollm2, SHORT, **predicted) for _ in range(6)}) == 1
    assert server.metric("edgellm_speculative_drafted_tokens_total") > 0


def test_deterministic_answers_are_the_same_beside_others(serving, smollm2):
    deterministic_beside_others(serving, smollm2)


def test_they_are_with_kernels_that_round_by_the_number_of_rows_as_well(serving, qwen):
    """As those of Q4_K do."""
    deterministic_beside_others(serving, qwen)


def deterministic_beside_others(serving, model):
    deterministic = {"EDGELLM__MODELS__DETERMINISTIC": "true"}
    flags = ["--context", 4096]
    alone = serving(model, *flags, env=deterministic)
    questions = [(question, parameters) for question in (SHORT, LONG) for parameters in SAMPLED]
    expected = [ask(alone, model, question, **parameters) for question, parameters in questions]
    assert [ask(alone, model, question, **parameters) for question, parameters in questions] == expected
    server = serving(model, *flags, env=deterministic)
    with company(server, model):
        for _ in range(2):
            assert [ask(server, model, question, **parameters) for question, parameters in questions] == expected


def test_deterministic_answers_that_come_together_are_the_same(serving, smollm2):
    """More than there are banks of the cache, so that some wait, and all with the same beginning."""
    server = serving(smollm2, "--context", 8192, env={"EDGELLM__MODELS__DETERMINISTIC": "true"})
    expected = {question: ask(server, smollm2, question, temperature=0) for question in (SHORT, LONG)}
    with ThreadPoolExecutor(12) as clients:
        asked = [(question, clients.submit(ask, server, smollm2, question, temperature=0)) for _ in range(6) for question in expected]
        for question, answer in asked:
            assert answer.result() == expected[question]


def test_every_choice_of_a_deterministic_answer_is_the_same_each_time(serving, smollm2):
    server = serving(smollm2, "--context", 4096, env={"EDGELLM__MODELS__DETERMINISTIC": "true"})
    body = {"model": smollm2.stem, "messages": [{"role": "user", "content": SHORT}], "n": 3, "temperature": 0.9, "seed": 3, "max_tokens": 16}

    def choices():
        answer = server.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.text
        return sorted((choice["index"], choice["message"]["content"]) for choice in answer.json()["choices"])

    first = choices()
    assert [choices() for _ in range(3)] == [first] * 3
