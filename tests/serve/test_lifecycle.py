"""From the port to the end: a taken port, signals while answering, and a server that sleeps when nobody asks."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fullbore.base.errors import MachineLacks, UsageError
from fullbore.models.weights import LoadedModel
from fullbore.serve.api import application
from fullbore.serve.run import background, serve
from fullbore.spec.serve import ServeSection

SCRIPT = """
import json, sys
from pathlib import Path
from fullbore.models import weights
from fullbore.serve.run import serve
from fullbore.spec.serve import ServeSection
serve(
    lambda: {"lm": weights.load(Path(sys.argv[1]))},
    ServeSection.model_validate(json.loads(sys.argv[2])),
    ready=lambda url: print(url, flush=True),
)
print("ended", flush=True)
"""


@contextmanager
def server(folder: Path, **section: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), json.dumps({"port": 0, **section})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out.strip(), err.strip()


def test_a_taken_port_is_told_before_any_model_is_loaded() -> None:
    def load() -> Mapping[str, LoadedModel]:
        pytest.fail("models were loaded")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineLacks) as refused:
            serve(load, ServeSection(port=port), ready=lambda url: None)
    assert refused.value.message == f"serve.port: 127.0.0.1:{port} is in use"
    assert refused.value.hint is not None and "--set serve.port=0" in refused.value.hint
    assert refused.value.exit_code == 4


def test_a_host_that_is_not_here_is_told() -> None:
    with pytest.raises(MachineLacks, match=r"serve.host: 192\.0\.2\.1:0"):
        serve({}, ServeSection(host="192.0.2.1", port=0), ready=lambda url: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_finishes_what_is_in_flight_and_takes_nothing_new(slow_model: LoadedModel, number: int) -> None:
    assert slow_model.artifact is not None
    with server(slow_model.artifact.folder) as (process, url):
        body = {"prompt": "def ", "max_tokens": 120, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(number)
            time.sleep(0.2)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert len(rest) > 3
        assert finish(process) == (0, "ended", "")


def test_what_outlives_the_drain_timeout_is_refused(slow_model: LoadedModel) -> None:
    assert slow_model.artifact is not None
    with server(slow_model.artifact.folder, drain_timeout=0.05) as (process, url):
        body = {"prompt": "def ", "max_tokens": 200, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
        assert finish(process) == (0, "ended", "")


@pytest.mark.slow
def test_a_second_signal_does_not_wait(slow_model: LoadedModel) -> None:
    assert slow_model.artifact is not None
    with server(slow_model.artifact.folder) as (process, url):
        body = {"prompt": "def ", "max_tokens": 200, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
        assert finish(process) == (0, "ended", "")


def wakeups(pid: int) -> int:
    """How often the threads of a process went to sleep and woke up so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        line = next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
        total += int(line.split()[1])
    return total


@pytest.mark.slow
def test_an_idle_server_sleeps(models: dict[str, LoadedModel]) -> None:
    """Every thread of it, the event loop too: no wake-ups in a second in which nobody asks."""
    lm = models["lm"]
    assert lm.artifact is not None
    with server(lm.artifact.folder) as (process, url):
        assert httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
        time.sleep(0.5)
        before = wakeups(process.pid)
        time.sleep(1.0)
        assert wakeups(process.pid) - before <= 2
        process.terminate()
        assert finish(process) == (0, "ended", "")


def test_the_background_server_ends_with_its_block(models: dict[str, LoadedModel]) -> None:
    with background({"lm": models["lm"]}, ServeSection(port=1)) as url:
        assert httpx.get(f"{url}/ready").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_models_that_cannot_be_served_are_told(models: dict[str, LoadedModel]) -> None:
    with pytest.raises(UsageError, match="expected letters, digits"):
        application({"../etc": models["lm"]}, ServeSection())
