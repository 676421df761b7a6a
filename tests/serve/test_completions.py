"""The OpenAI door: the same text as in process, whole or streamed, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fullbore.models.generate import generate
from fullbore.models.weights import LoadedModel

Models = dict[str, LoadedModel]


def in_process(loaded: LoadedModel, prompt: str, **rest: Any) -> str:
    assert loaded.tokenizer is not None
    end = loaded.tokenizer.end_of_text
    tokens = loaded.tokenizer.encode(prompt).tolist()
    made = list(generate(loaded.module, tokens, stop_ids={end}, **rest))
    return loaded.tokenizer.decode([token for token in made if token != end])


def complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"model": "lm", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/completions", json={"model": "lm", "stream": True, **body}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error(client: httpx.Client, status: int, **body: Any) -> dict[str, Any]:
    content = json.dumps({"model": "lm", "prompt": "def ", **body})
    answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    return dict(answer.json()["error"])


@pytest.mark.parametrize("prompt", ["def ", "中文", "\x00", "the quick"])
@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 5}])
def test_the_text_is_what_the_model_says_in_process(
    client: httpx.Client, models: Models, prompt: str, how: dict[str, Any]
) -> None:
    found = complete(client, prompt=prompt, max_tokens=40, **how)
    assert found["choices"][0]["text"] == in_process(models["lm"], prompt, max_tokens=40, **how)
    assert found["object"] == "text_completion"
    assert found["model"] == "lm"


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_joins_to_the_same_text_without_torn_characters(client: httpx.Client, seed: int) -> None:
    body = {"prompt": "中文", "max_tokens": 60, "temperature": 1.2, "seed": seed}
    whole = complete(client, **body)["choices"][0]
    pieces = [event["choices"][0] for event in events(client, **body)]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    assert pieces[-1]["finish_reason"] == whole["finish_reason"]
    assert all(piece["finish_reason"] is None for piece in pieces[:-1])
    assert len(pieces) > 5


def test_several_prompts_are_answered_in_their_order_streamed_too(client: httpx.Client, models: Models) -> None:
    prompts = ["def ", "the ", "中"]
    wanted = [in_process(models["lm"], prompt, max_tokens=12, temperature=0) for prompt in prompts]
    found = complete(client, prompt=prompts, max_tokens=12, temperature=0)
    assert [choice["text"] for choice in found["choices"]] == wanted
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    streamed = events(client, prompt=prompts, max_tokens=12, temperature=0, stream_options={"include_usage": True})
    texts = ["", "", ""]
    for event in streamed[:-1]:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == wanted
    assert streamed[-1]["choices"] == [] and streamed[-1]["usage"] == found["usage"]


def test_token_ids_are_a_prompt_and_usage_counts_tokens(client: httpx.Client, models: Models) -> None:
    vocabulary = models["lm"].tokenizer
    assert vocabulary is not None
    tokens = vocabulary.encode("def add").tolist()
    text = complete(client, prompt="def add", max_tokens=8, temperature=0)
    assert complete(client, prompt=tokens, max_tokens=8, temperature=0)["choices"] == text["choices"]
    assert complete(client, prompt=[tokens], max_tokens=8, temperature=0)["choices"] == text["choices"]
    assert text["usage"] == {
        "prompt_tokens": len(tokens),
        "completion_tokens": 8,
        "total_tokens": len(tokens) + 8,
    }
    assert text["choices"][0]["finish_reason"] == "length"


def test_an_empty_prompt_begins_a_text(client: httpx.Client, models: Models) -> None:
    vocabulary = models["lm"].tokenizer
    assert vocabulary is not None
    found = complete(client, prompt="", max_tokens=8, temperature=0)
    wanted = complete(client, prompt=[vocabulary.end_of_text], max_tokens=8, temperature=0)
    assert found["choices"] == wanted["choices"]


def test_a_stop_string_ends_the_text_before_it(client: httpx.Client) -> None:
    whole = complete(client, prompt="def ", max_tokens=40, temperature=0)["choices"][0]["text"]
    stop = whole[6:9]
    wanted = whole[: whole.index(stop)]
    found = complete(client, prompt="def ", max_tokens=40, temperature=0, stop=[stop, "never"])
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == (wanted, "stop")
    assert found["usage"]["completion_tokens"] < 40
    streamed = events(client, prompt="def ", max_tokens=40, temperature=0, stop=stop)
    assert "".join(event["choices"][0]["text"] for event in streamed) == wanted
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_end_of_text_token_ends_the_text(client: httpx.Client, models: Models) -> None:
    """Sampled long enough, some seed meets it; the text does not show it."""
    for seed in range(200):
        found = complete(client, prompt="def ", max_tokens=60, temperature=2, seed=seed)
        choice = found["choices"][0]
        if choice["finish_reason"] == "stop":
            assert found["usage"]["completion_tokens"] < 60
            assert "<|endoftext|>" not in choice["text"]
            return
    pytest.fail("no seed of 200 ended its text")


def test_the_same_seed_says_the_same_and_no_seed_varies(client: httpx.Client) -> None:
    body = {"prompt": "def ", "max_tokens": 30, "temperature": 1.5}
    assert complete(client, seed=1, **body)["choices"] == complete(client, seed=1, **body)["choices"]
    assert complete(client, **body)["choices"] != complete(client, **body)["choices"]


def test_the_only_language_model_needs_no_name(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"prompt": "def ", "max_tokens": 2, "user": "somebody"})
    assert answer.status_code == 200
    assert answer.json()["model"] == "lm"


def test_the_models_are_listed(client: httpx.Client, models: Models) -> None:
    listed = client.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == list(models)
    assert client.get("/v1/models/lm").json()["id"] == "lm"
    assert client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"prompt": 3}, "prompt", "found the number 3, expected a string"),
        ({"prompt": None}, "prompt", "found null"),
        ({"prompt": []}, "prompt", "found a list of 0"),
        ({"prompt": ["a", 3]}, "prompt", "found a string of 1 characters in the list"),
        ({"prompt": [True, False]}, "prompt", "found true in the list"),
        ({"prompt": [0, 10**9]}, "prompt", "found token id 1000000000"),
        ({"prompt": [-1]}, "prompt", "found token id -1"),
        ({"prompt": [10**40]}, "prompt", "found token id a huge integer"),
        ({"prompt": ["a"] * 129}, "prompt", "found 129 prompts, expected at most 128"),
        ({"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),
        ({"prompt": "a b c d " * 200}, "prompt", "expected at most 256 together"),
        ({"prompt": "a" * 100_000}, "prompt", "found 100000 characters, expected at most 256 tokens"),
        ({"max_tokens": -1}, "max_tokens", "found the number -1, expected greater than or equal to 0"),
        ({"max_tokens": 201}, "max_tokens", "found the number 201, expected at most 200"),
        ({"max_tokens": 2.5}, "max_tokens", "found the number 2.5, expected a valid integer"),
        ({"max_tokens": "9"}, "max_tokens", "found a string of 1 characters"),
        ({"max_tokens": True}, "max_tokens", "found true"),
        ({"max_tokens": 10**400}, "max_tokens", "huge integer"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "expected a valid number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"stop": ["a"] * 5}, "stop", "up to 4"),
        ({"stop": ""}, "stop", "1 to 256 characters"),
        ({"stream": "yes"}, "stream", "expected a valid boolean"),
        ({"n": 2}, "n", "found the number 2, expected 1 or null; nothing else is supported here"),
        ({"n": True}, "n", "found true, expected 1 or null"),
        ({"best_of": 3}, "best_of", "expected 1 or null"),
        ({"echo": True}, "echo", "found true, expected false or null"),
        ({"logprobs": 0}, "logprobs", "found the number 0, expected null"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "found an object, expected {} or null"),
        ({"suffix": "x"}, "suffix", 'expected "" or null'),
        ({"presence_penalty": 0.5}, "presence_penalty", "expected 0 or null"),
        ({"maxtokens": 3}, "maxtokens", "unknown or not supported"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "unknown"),
        ({"model": "spam"}, "model", "ask POST /v2/models/spam/infer"),
    ],
)
def test_what_is_wrong_is_named(client: httpx.Client, body: dict[str, Any], param: str, says: str) -> None:
    answer = error(client, 400, **body)
    assert answer["param"] == param
    assert says in answer["message"]
    assert len(answer["message"]) < 300


NOTHING_SPECIAL = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "logprobs": None,
    "logit_bias": {},
    "suffix": "",
    "presence_penalty": 0.0,
    "frequency_penalty": 0,
    "stop": [],
    "stream": False,
    "stream_options": None,
    "user": "somebody",
}


@pytest.mark.parametrize("field", NOTHING_SPECIAL)
def test_what_asks_for_nothing_special_is_taken(client: httpx.Client, field: str) -> None:
    """As clients send it that write out every field, or null for what they leave open."""
    body = {"prompt": "def ", "max_tokens": 4, "temperature": 0}
    plain = complete(client, **body)["choices"]
    assert complete(client, **body, **{field: NOTHING_SPECIAL[field]})["choices"] == plain
    assert complete(client, **body, **{field: None})["choices"] == plain


def test_openai_s_own_bounds_are_in_range(client: httpx.Client) -> None:
    """No token at all, and of all tokens only the likeliest."""
    none = complete(client, prompt="def ", max_tokens=0)
    assert (none["choices"][0]["text"], none["choices"][0]["finish_reason"]) == ("", "length")
    assert none["usage"]["completion_tokens"] == 0
    sharpest = complete(client, prompt="def ", max_tokens=8, temperature=2, top_p=0)
    assert sharpest["choices"] == complete(client, prompt="def ", max_tokens=8, temperature=0)["choices"]
    whole = complete(client, prompt="def ", max_tokens=8, temperature=0)["choices"][0]["text"]
    assert (
        complete(client, prompt="def ", max_tokens=8, temperature=0, stop=list("\x01\x02\x03\x04"))["choices"][0][
            "text"
        ]
        == whole
    )


def test_usage_that_is_asked_for_is_null_in_all_chunks_but_the_last(client: httpx.Client) -> None:
    body = {"prompt": ["def ", "the "], "max_tokens": 6, "temperature": 0}
    asked = events(client, **body, stream_options={"include_usage": True, "include_obfuscation": False})
    assert len(asked) > 4
    assert all("usage" in chunk and chunk["usage"] is None and chunk["choices"] for chunk in asked[:-1])
    assert asked[-1]["choices"] == [] and asked[-1]["usage"]["completion_tokens"] == 12
    for options in ({"include_usage": False}, {"include_usage": None}, {}, None):
        assert not any("usage" in chunk for chunk in events(client, **body, stream_options=options))


def test_errors_have_openai_s_types_and_codes(client: httpx.Client) -> None:
    unknown = error(client, 404, model="nobody")
    assert (unknown["type"], unknown["param"], unknown["code"]) == ("invalid_request_error", "model", "model_not_found")
    long = error(client, 400, prompt="a b c d " * 200)
    assert (long["type"], long["param"], long["code"]) == ("invalid_request_error", "prompt", "context_length_exceeded")


def test_a_missing_prompt_and_an_unknown_model_are_told(client: httpx.Client) -> None:
    missing = client.post("/v1/completions", json={"model": "lm"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "prompt")
    assert error(client, 404, model="nobody")["message"].startswith("no model 'nobody'; served are: lm")
