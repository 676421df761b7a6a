"""What `fullbore serve` says to do works: every command is run as it stands, by a shell with a curl of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fullbore.models.weights import LoadedModel
from fullbore.serve.catalogue import Served
from fullbore.serve.invitation import invitation

CURL = """#!{python}
import sys, urllib.request
flags = sys.argv[1:]
body = flags[flags.index("-d") + 1]
name, _, value = flags[flags.index("-H") + 1].partition(": ")
data = sys.stdin.buffer.read() if body == "@-" else body.encode()
url = next(flag for flag in flags if flag.startswith("http://"))
with urllib.request.urlopen(urllib.request.Request(url, data, {{name: value}})) as reply:
    sys.stdout.write(reply.read().decode())
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with a `curl` that knows -s, -H and -d, whatever this machine has."""
    curl = tmp_path / "curl"
    curl.write_text(CURL.format(python=sys.executable))
    curl.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("name", ["lm", "spam", "fashion", "diabetes", "digits"])
def test_the_example_works(models: dict[str, LoadedModel], url: str, name: str, path: str) -> None:
    told = invitation(Served(name, models[name]), url, 'it\'s "so" 中文 ')
    assert told["name"] == name and told["task"] == models[name].task.kind
    assert told["doors"][-1] == f"{url}/v2/models/{name}/infer"
    done = subprocess.run(
        ["sh", "-c", told["example"]], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    if name == "lm":
        assert reply["model"] == "lm" and reply["usage"]["completion_tokens"] > 0
    else:
        assert reply["model_name"] == name and reply["outputs"][0]["shape"] == [1]


def test_an_example_is_asked_with_the_mean_of_the_data(models: dict[str, LoadedModel], url: str) -> None:
    assert '"data": [1.0, 2.0, 3.0]' in invitation(Served("diabetes", models["diabetes"]), url, "")["example"]
    assert len(invitation(Served("fashion", models["fashion"]), url, "")["example"]) < 400
