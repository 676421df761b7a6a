"""Slowness caused from outside a real run, with nothing in the program that knows of it: the verdict names it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import TINY, Bench, neighbours

pytestmark = pytest.mark.slow

TRAINING = TINY.split("[compress]")[0].replace('baselines = ["bigram", "trigram"]\n', "")
SHORT = ("--set", "train.budget=5 steps")
LINES = 50
SLOW_DISK = Path(__file__).with_name("slow_disk.c")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What is prepared and measured once, so that the runs disturbed here do little but train."""
    bench = Bench(tmp_path_factory.mktemp("outside"))
    bench.done("run", bench.job(TRAINING), *SHORT)
    return bench


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return dict(json.loads(stdout.splitlines()[-1]))


def named(bench: Bench, result: dict[str, Any], limit: str, *told: str) -> dict[str, Any]:
    """The verdict, once it names `limit` in the result, in `explain` and in the report alike."""
    verdict = dict(result["verdict"])
    assert verdict["limit"] == limit, (verdict, result["ledger"])
    for words in told:
        assert words in verdict["sentence"] + " ".join(verdict["evidence"]), verdict
    assert bench.done("explain", result["run"])["verdict"]["limit"] == limit
    assert verdict["sentence"][:40] in (bench.folder / "runs" / result["run"] / "report.html").read_text()
    return verdict


@contextmanager
def stopped(pid: int, seconds: float) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_stopped_process(prepared: Bench) -> None:
    process = prepared.start(
        "run", prepared.job(TRAINING), "--set", "train.budget=200 steps", "--name", "stopped", "--json"
    )
    prepared.wait_for_run(process, "stopped", "step", 3)
    with stopped(process.pid, 5):
        pass
    verdict = named(prepared, finish(process), "a stopped process", "used no CPU")
    assert verdict["share"] > 0.2 and "SIGSTOP" in verdict["advice"][0]["change"]


def test_hungry_neighbours(prepared: Bench) -> None:
    with neighbours():
        result = prepared.done("run", prepared.job(TRAINING), "--set", "train.budget=150 steps")
    verdict = named(prepared, result, "a neighbour", "other processes", "cores")
    assert "other processes" in verdict["advice"][0]["change"]


def lines(number: int) -> Iterator[bytes]:
    for line in range(number):
        yield (
            json.dumps({"text": f"line {line} of a file that somebody writes slowly, word by word " * 8}).encode()
            + b"\n"
        )


def jsonl(source: str) -> tuple[str, ...]:
    """A job of the bench, with another source."""
    return ("--set", f"data.source={source}", "--set", "data.format=jsonl", "--set", "data.include=[]", *SHORT)


def test_a_slow_pipe_as_a_source(prepared: Bench) -> None:
    pipe = prepared.folder / "slow.jsonl"
    os.mkfifo(pipe)
    process = prepared.start("run", prepared.job(TRAINING), *jsonl("slow.jsonl"), "--name", "pipe", "--json")
    with open(pipe, "wb", buffering=0) as file:
        for line in lines(LINES):
            file.write(line)
            time.sleep(0.12)
    verdict = named(prepared, finish(process), "a slow source", "slow.jsonl", "while reading, this run used")
    assert any("--set data.source" in item["set"] for item in verdict["advice"])


@contextmanager
def relay(endpoint: str, delay: float) -> Iterator[str]:
    """A server that passes requests on to `endpoint`, each after `delay` seconds; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(delay)
            kept = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            asked = urllib.request.Request(endpoint + self.path, headers=kept, method=self.command)
            try:
                with urllib.request.urlopen(asked) as answer:
                    status, headers, body = answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as error:
                status, headers, body = error.code, error.headers, error.read()
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)) if body else headers.get("Content-Length", "0"))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_far_away_store_as_a_source(prepared: Bench, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=bucket, region_name="us-east-1")
    for number, line in enumerate(lines(LINES // 2)):
        client.put_object(Bucket="training", Key=f"far/{number:02d}.jsonl", Body=line)
    client.close()
    with relay(bucket, 0.1) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        result = prepared.done("run", prepared.job(TRAINING), *jsonl("s3://training/far"))
    assert result["stages"][0]["seconds"] > 0.1 * LINES / 2
    named(prepared, result, "a slow source", "s3://training/far", "delivers too slowly")


def test_a_disk_that_flushes_slowly(prepared: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "slow_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SLOW_DISK, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SLOW_DISK", str(prepared.folder / "runs" / "slow-disk" / "checkpoints"))
    monkeypatch.setenv("SLOW_DISK_SECONDS", "0.25")
    often = ("--set", "train.budget=20 steps", "--set", "train.checkpoint_every=2", "--name", "slow-disk")
    result = prepared.done("run", prepared.job(TRAINING), *often)
    verdict = named(prepared, result, "a slow disk", "waited for")
    assert any("--set train.checkpoint_every=4" in item["set"] for item in verdict["advice"])


def rank_process(parent: int, rank: int) -> int:
    """The process of a rank, found as anybody can: by its parent and its environment."""
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and f"PPid:\t{parent}\n" in (entry / "status").read_text()
            if ours and f"RANK={rank}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank} below {parent}")


@pytest.mark.parametrize("slow", [0, 1])
def test_a_rank_that_the_others_wait_for(prepared: Bench, slow: int) -> None:
    name = f"straggler-{slow}"
    two = ("--set", "train.world_size=2", "--set", "train.budget=150 steps")
    process = prepared.start("run", prepared.job(TRAINING), *two, "--name", name, "--json")
    prepared.wait_for_run(process, name, "step", 3)
    with stopped(rank_process(process.pid, slow), 6):
        pass
    verdict = named(prepared, finish(process), "a slow rank", f"rank {slow}, which the others wait for")
    assert f"rank {slow} worked" in verdict["evidence"][0]
    assert verdict["share"] > 0.2
