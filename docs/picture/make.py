"""Draw docs/picture/explain.svg: what `fullbore explain` printed about a real run.

fullbore run recipes/python-lm.toml
python docs/picture/make.py last
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

TARGET = Path(__file__).with_name("explain.svg")
WIDTH = 100


def explained(run: str) -> str:
    """The answer of `fullbore explain`, in the colours of a terminal."""
    program = Path(sys.executable).with_name("fullbore")
    coloured = {**os.environ, "FORCE_COLOR": "1", "COLORTERM": "truecolor", "NO_COLOR": ""}
    done = subprocess.run([program, "explain", run], env=coloured, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout


def picture(answer: str) -> str:
    """The answer as one self-contained SVG: rich names fonts of another host, which are left out."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ fullbore explain last", style="bold"), Text.from_ansi(answer), sep="\n")
    drawn = console.export_svg(title="fullbore", theme=MONOKAI)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    return re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE).replace("Fira Code,", "")


if __name__ == "__main__":
    TARGET.write_text(picture(explained(sys.argv[1] if len(sys.argv) > 1 else "last")), encoding="utf-8")
