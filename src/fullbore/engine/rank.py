"""What a rank's process runs: `python -m fullbore.engine.rank <parent pid> <module> [arguments]`.

It asks the kernel to be killed when its parent dies, so that no rank outlives the run, then becomes `module`. An error
that its user can act on becomes one line for the parent, who raises it again.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys

from fullbore.base.errors import FullboreError
from fullbore.engine.process import settle

ERROR = "\x1e"
"""Begins the line that holds an error, as JSON (RFC 7464's record separator)."""
_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have this process killed with `parent`, its starter (Linux: prctl(2)); end it now if that one is already gone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    die_with(int(sys.argv[1]))
    settle()
    sys.argv = sys.argv[2:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except FullboreError as error:
        sys.stderr.write(f"{ERROR}{json.dumps(error.to_json())}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
