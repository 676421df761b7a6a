"""What computing processes ask of their host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PAGES = """
import resource, sys
if sys.argv[1] == "kept":
    from fullbore.engine.process import settle
    settle()
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        torch.ones(12_000_000)
work()
before = faults()
work()
print(faults() - before)
"""


def test_what_is_freed_is_not_asked_of_the_kernel_again() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", _PAGES, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 100 < 20 * 48_000_000 // 2**21 < faults("plain")


def test_compiled_code_is_kept_beside_what_else_is_known_of_the_machine(tmp_path: Path) -> None:
    code = (
        "import os; from fullbore.engine.process import settle; settle(); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    for given, expected in (({}, tmp_path / "fullbore" / "compiled"), ({"TORCHINDUCTOR_CACHE_DIR": "mine"}, "mine")):
        environment = {"PATH": "/usr/bin", "XDG_CACHE_HOME": str(tmp_path), **given}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == str(expected)
