"""Work killed before every single line that it runs: what a SIGKILL at any moment can leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FORKED = """
import os, signal, sys
from pathlib import Path

root, before, work = Path(sys.argv[1]), compile(sys.argv[2], "before", "exec"), compile(sys.argv[3], "work", "exec")
os.fsync = lambda descriptor: None  # a SIGKILL loses nothing that was written; a power cut is not what is tried here
import ctypes, shutil  # noqa


def killed_at(line):
    left = line

    def trace(frame, kind, argument):
        nonlocal left
        if not ("/fullbore/" in frame.f_code.co_filename or frame.f_code.co_filename.endswith("shutil.py")):
            return None
        if kind == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


line = 0
while True:
    folder = root / f"{line:04d}"
    folder.mkdir()
    names = {"folder": folder}
    exec(before, names)
    child = os.fork()
    if child == 0:
        sys.settrace(killed_at(line))
        exec(work, names)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    line += 1
"""


def killed_before_every_line(root: Path, before: str, work: str) -> list[Path]:
    """For every line of `work`, a folder in `root` where a process died before it; last, one where none died.

    `before` and `work` are Python; `folder` is the one to work in, `before` has run there whole.
    """
    root.mkdir()
    subprocess.run([sys.executable, "-c", FORKED, str(root), before, work], check=True, timeout=100)
    return sorted(root.iterdir())
