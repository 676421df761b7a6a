import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fullbore import store
from fullbore.base.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_lists_reads_streams_and_writes(bucket: str) -> None:
    place = store.open("s3://training/corpus")
    large = bytes(range(256)) * 80_000
    files = {"中文 文件.txt": "你好".encode(), "a/b.bin": large, "empty": b""}
    for name, content in files.items():
        place.write(name, content)
    store.open("s3://training").write("elsewhere.txt", b"not of this prefix")
    entries = place.list()
    assert [(entry.path, entry.bytes) for entry in entries] == sorted((n, len(c)) for n, c in files.items())
    assert all(place.read(name) == content for name, content in files.items())
    with place.stream("a/b.bin") as stream:
        assert stream.read(10) == large[:10]
        assert stream.read() == large[10:]
    place.write("empty", b"no more")
    assert {e.path: e.version for e in place.list()}["empty"] != {e.path: e.version for e in entries}["empty"]


def test_what_is_not_there_is_named(bucket: str) -> None:
    place = store.open("s3://training/corpus")
    with pytest.raises(InputError, match="s3://training/corpus/gone: not there"):
        place.read("gone")
    with pytest.raises(InputError, match="s3://no-such-bucket: "):
        store.open("s3://no-such-bucket").list()


class _Relay(BaseHTTPRequestHandler):
    """Answers 500 to every other request, and passes the rest on."""

    upstream = ""
    refused = 0
    count = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        cls = type(self)
        cls.count += 1
        if cls.count % 2:
            cls.refused += 1
            self._answer(500, b"", {})
            return
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc)
        connection.request("GET", self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        kept = {k: v for k, v in answer.getheaders() if k.lower() in ("etag", "last-modified", "content-range")}
        self._answer(answer.status, answer.read(), kept)
        connection.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def relay(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Relay]]:
    handler = type("Relay", (_Relay,), {"upstream": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()


def test_failing_answers_are_asked_for_again(
    bucket: str, relay: type[_Relay], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flaky = store.open("s3://training/data")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    store.open("s3://training/data").write("a.txt", b"content")
    assert [entry.path for entry in flaky.list()] == ["a.txt"]
    assert flaky.read("a.txt") == b"content"
    assert relay.refused >= 2
