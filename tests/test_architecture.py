"""The house rules that a linter does not know: names, lengths, and who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "fullbore"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "core"}
LONGEST_FILE = 600
LONGEST_FUNCTION = 80


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_imports_point_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    outcome = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


def test_names_say_what_a_file_does() -> None:
    assert [path for path in FILES if path.stem in NAMES_THAT_SAY_NOTHING] == []
    folders = {path.parent for path in FILES}
    assert [folder for folder in folders if folder.name in NAMES_THAT_SAY_NOTHING] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_fit_in_a_head(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    too_long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in functions(ast.parse(text))
        if node.end_lineno is not None and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert too_long == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{path} has no docstring"


def test_nothing_is_unpickled_or_executed() -> None:
    forbidden = {("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("marshal", "loads"), ("yaml", "load")}
    found = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and (node.func.value.id, node.func.attr) in forbidden
            )
            or (isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"})
        )
    ]
    assert found == []


def test_no_torchvision() -> None:
    assert [path for path in FILES if "torchvision" in path.read_text()] == []


def test_every_recipe_has_commands_in_its_header() -> None:
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any("fullbore run recipes/" in line for line in header), path
