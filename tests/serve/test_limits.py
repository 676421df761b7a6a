"""What a server refuses, over real sockets: malformed, oversized, too many, too late; and that it stays well."""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from starlette.applications import Starlette

from fullbore.models.weights import LoadedModel
from fullbore.serve.api import application
from fullbore.serve.run import background
from fullbore.spec.serve import ServeSection

Models = dict[str, LoadedModel]
JSON = {"content-type": "application/json"}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SECRET = "the-quick-brown-secret"


def post(client: httpx.Client, content: Any, headers: dict[str, str] = JSON) -> httpx.Response:
    return client.post("/v1/completions", content=content, headers=headers)


def raw(url: str, request: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are; what comes back until the server closes or is silent for a moment."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        connection.sendall(request)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        try:
            while part := connection.recv(65536):
                answer += part
                if b"\r\n\r\n" in answer:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def counter(client: httpx.Client, name: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within 10 s")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"{'prompt': 'a'}", "not_json"),
        (b'{"prompt": "a",}', "not_json"),
        (b'{"prompt": NaN}', "not_json"),
        (b'{"prompt": [Infinity]}', "not_json"),
        (b'{"prompt": -Infinity}', "not_json"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[" * 200_000, "too_deep"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "too_deep"),
        (b'{"prompt": "a", "prompt": "b"}', "duplicate_key"),
        (b'{"prompt": "\xff\xfe"}', "not_utf8"),
        (b"[1, 2]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"prompt": "a", "temperature": 1e999}', "invalid_value"),
        (b'{"model": "\\u0000../etc", "prompt": "a"}', "model_not_found"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:24].decode(errors="replace"),
)
def test_malformed_bodies_are_refused_cleanly(client: httpx.Client, body: bytes, code: str) -> None:
    answer = post(client, body)
    assert answer.status_code == (404 if code == "model_not_found" else 400)
    assert answer.json()["error"]["code"] == code
    assert len(answer.text) < 500
    assert client.get("/health").status_code == 200


def test_what_is_not_there_and_what_is_not_taken(client: httpx.Client) -> None:
    missing = client.get("/v1/chat")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert client.get("/v1/models/").status_code == 404
    wrong = client.get("/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["message"] == "GET is not taken here, expected POST"
    assert client.put("/health").status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "text/xml"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-www-form-urlencoded", "origin": "https://elsewhere.example"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_what_is_not_plain_json_is_415(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = post(client, b'{"prompt": "a"}', headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["param"] in ("content-type", "content-encoding")


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/x-www-form-urlencoded"}])
def test_json_that_is_not_announced_is_taken(client: httpx.Client, headers: dict[str, str]) -> None:
    """As `curl -d` sends it."""
    assert post(client, b'{"prompt": "a", "max_tokens": 1}', headers).status_code == 200
    form = post(client, b"prompt=a", headers)
    assert (form.status_code, form.json()["error"]["code"]) == (400, "not_json")


def test_a_charset_beside_the_type_is_fine(client: httpx.Client) -> None:
    answer = post(client, b'{"prompt": "a", "max_tokens": 1}', {"content-type": "Application/JSON; charset=utf-8"})
    assert answer.status_code == 200


def test_a_large_body_is_413_before_it_is_sent(url: str, client: httpx.Client) -> None:
    assert raw(url, HEAD + b"Content-Length: 999999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert client.get("/health").status_code == 200


def test_a_large_body_in_chunks_is_413_while_it_comes(url: str, client: httpx.Client) -> None:
    before = counter(client, 'fullbore_refused_total{reason="body_too_large"}')

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    assert post(client, chunks()).status_code == 413
    assert counter(client, 'fullbore_refused_total{reason="body_too_large"}') == before + 1
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["tls", "no-path", "negative-length", "length-and-chunked", "bad-chunk", "long-header"],
)
def test_what_is_not_http_harms_nobody(url: str, client: httpx.Client, request_bytes: bytes) -> None:
    answer = raw(url, request_bytes)
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200 "))
    assert client.get("/health").status_code == 200


def test_a_client_that_goes_while_it_sends_harms_nobody(url: str, client: httpx.Client) -> None:
    for _ in range(20):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(HEAD + b'Content-Length: 1000\r\n\r\n{"prompt"')
    answer = post(client, b'{"prompt": "a", "max_tokens": 1}')
    assert answer.status_code == 200


def test_a_body_that_does_not_come_is_408(models: Models) -> None:
    with background(models, ServeSection(request_timeout=0.3)) as url:
        assert raw(url, HEAD + b"Content-Length: 9\r\n\r\n{").startswith(b"HTTP/1.1 408 ")


class Stepped:
    """A language model whose tokens the test lets come one by one."""

    def __init__(self, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.free = threading.Semaphore(0)
        inner: Any = loaded.module
        step = inner.next_logits

        def next_logits(*arguments: Any) -> torch.Tensor:
            assert self.free.acquire(timeout=30)
            self.steps += 1
            return step(*arguments)  # type: ignore[no-any-return]

        monkeypatch.setattr(inner, "next_logits", next_logits, raising=False)

    def let(self, count: int) -> None:
        for _ in range(count):
            self.free.release()


@pytest.fixture
def stepped(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stepped]:
    stepped = Stepped(models["lm"], monkeypatch)
    yield stepped
    stepped.let(10_000)


def ask(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={"prompt": "def ", "temperature": 0, **body}, timeout=30)


def test_a_full_queue_is_429_with_the_time_to_come_again(models: Models, stepped: Stepped) -> None:
    with (
        background(models, ServeSection(queue_requests=3)) as url,
        ThreadPoolExecutor(16) as pool,
        httpx.Client(base_url=url) as client,
    ):
        running = pool.submit(ask, url, max_tokens=4)
        wait_until(lambda: counter(client, "fullbore_queued_requests") == 0)
        stepped.let(1)
        wait_until(lambda: stepped.steps == 1)
        others = [pool.submit(ask, url, max_tokens=4) for _ in range(3)]
        wait_until(lambda: counter(client, "fullbore_queued_requests") == 3)
        refused = [ask(url, max_tokens=4) for _ in range(5)]
        stepped.let(100)
        assert [one.result().status_code for one in (running, *others)] == [200] * 4
        assert [one.status_code for one in refused] == [429] * 5
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        assert refused[0].json()["error"]["message"] == "the queue holds at most 3 requests; ask again later"
        assert counter(client, 'fullbore_refused_total{reason="queue_requests_full"}') == 5
        assert counter(client, 'fullbore_requests_total{code="429"') == 5


def test_tokens_fill_the_queue_too_and_what_never_fits_is_400(models: Models, stepped: Stepped) -> None:
    with (
        background(models, ServeSection(queue_tokens=50)) as url,
        ThreadPoolExecutor(4) as pool,
        httpx.Client(base_url=url) as client,
    ):
        running = pool.submit(ask, url, max_tokens=20)
        stepped.let(1)
        wait_until(lambda: stepped.steps == 1)
        waiting = pool.submit(ask, url, max_tokens=40)
        wait_until(lambda: counter(client, "fullbore_queued_tokens") > 40)
        assert ask(url, max_tokens=20).json()["error"]["code"] == "queue_tokens_full"
        never = ask(url, max_tokens=60)
        assert (never.status_code, never.json()["error"]["code"]) == (400, "too_many_tokens")
        stepped.let(100)
        assert (running.result().status_code, waiting.result().status_code) == (200, 200)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_too_late_is_504(models: Models, stepped: Stepped, stream: bool) -> None:
    with background(models, ServeSection(request_timeout=0.3)) as url:
        late = ask(url, max_tokens=100, stream=stream)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_passed")
        stepped.let(1000)
        assert ask(url, max_tokens=3).status_code == 200
        assert stepped.steps <= 1 + 3


def test_a_stream_that_takes_too_long_ends_with_an_error(models: Models, stepped: Stepped) -> None:
    with background(models, ServeSection(request_timeout=0.5)) as url:
        stepped.let(4)
        lines = [line for line in ask(url, max_tokens=100, stream=True).text.splitlines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "deadline_passed"
        stepped.let(1000)
        assert ask(url, max_tokens=3).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_stops_the_generation_at_the_next_token(
    models: Models, stepped: Stepped, stream: bool
) -> None:
    body = json.dumps({"prompt": "def ", "max_tokens": 200, "stream": stream}).encode()
    request = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with background(models, ServeSection()) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request)
            stepped.let(3)
            wait_until(lambda: stepped.steps == 3)
        time.sleep(0.2)
        stepped.let(1000)
        assert ask(url, max_tokens=2).status_code == 200
        assert stepped.steps <= 3 + 1 + 2
        if not stream:
            with httpx.Client(base_url=url) as client:
                assert counter(client, 'fullbore_requests_total{code="499"') == 1


class Poisoned(torch.nn.Module):
    """Fails when one of its texts holds the secret."""

    def __init__(self, inner: torch.nn.Module, poison: list[int]) -> None:
        super().__init__()
        self.inner, self.poison = inner, poison

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if any(row[: len(self.poison)] == self.poison for row in tokens.tolist()):
            raise RuntimeError(f"cannot read {SECRET} at /home/me/secret.py")
        answer: torch.Tensor = self.inner(tokens, mask)
        return answer


def test_only_the_guilty_request_fails_and_nothing_of_it_is_told_or_logged(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    spam = models["spam"]
    assert spam.tokenizer is not None
    poisoned = dataclasses.replace(spam, module=Poisoned(spam.module, spam.tokenizer.encode(SECRET).tolist()))
    texts = [SECRET if index == 7 else f"text {index}" for index in range(24)]
    caplog.set_level(logging.DEBUG)
    with background({"spam": poisoned}, ServeSection()) as url, ThreadPoolExecutor(24) as pool:

        def infer(text: str) -> httpx.Response:
            tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
            return httpx.post(f"{url}/v2/models/spam/infer", json={"inputs": [tensor]}, timeout=30)

        answers = list(pool.map(infer, texts))
    assert [answer.status_code for answer in answers] == [500 if text == SECRET else 200 for text in texts]
    assert answers[7].json() == {"error": "the server failed to answer this request"}
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "/v2/models/{name}/infer failed: RuntimeError at test_limits.py" in logged
    assert SECRET not in logged
    assert SECRET not in caplog.text


async def _get(app: Starlette, method: str, path: str, **rest: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        return await client.request(method, path, **rest)


def test_a_draining_server_is_unready_and_503(models: Models) -> None:
    import asyncio

    app = application(models, ServeSection())
    app.state.lane.stop()
    assert asyncio.run(_get(app, "GET", "/ready")).status_code == 503
    for path in ("/v2/health/ready", "/v2/models/lm/ready"):
        unready = asyncio.run(_get(app, "GET", path))
        assert (unready.status_code, unready.json()) == (503, {"error": "the server is shutting down"})
    assert asyncio.run(_get(app, "GET", "/health")).status_code == 200
    answer = asyncio.run(_get(app, "POST", "/v1/completions", json={"prompt": "a"}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


def test_metrics_tell_what_happened(models: Models) -> None:
    with background(models, ServeSection()) as url, httpx.Client(base_url=url) as client:
        ask(url, max_tokens=5)
        ask(url, max_tokens=3, stream=True)
        assert counter(client, 'fullbore_requests_total{code="200",route="/v1/completions"}') == 2
        assert counter(client, 'fullbore_tokens_total{kind="generated",model="lm"}') == 8
        assert counter(client, "fullbore_first_token_seconds_count") == 2
        assert counter(client, "fullbore_inter_token_seconds_count") == 4 + 2
        assert counter(client, "fullbore_batch_requests_count") == 2
        assert counter(client, "fullbore_queue_seconds_count") == 2
        assert counter(client, "fullbore_execute_seconds_count") == 2
        assert counter(client, "fullbore_queued_") == 0
