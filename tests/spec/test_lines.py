"""Every key that tomllib finds has a line, and its name is written there."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fullbore.spec.lines import Path, key_lines

AWKWARD = '''# a comment with [brackets] and = signs
a.b = 1 # "x = 2"
"q.r" = """
multi "quoted" \\""" [still]
"""""
'li teral' = \'\'\'
[not.a.table]
\'\'\'
[t . 'u']
x = [ 1, # one
  [2,
   3], {y = 1, z.w = 'a, b'}, "]",
]
[[arr]]
n=1
[arr.sub]
k = true
[[arr]]
n = 1979-05-27 07:32:00
[[arr.deep]]
z = 1.5
[[arr.deep]]
'''


def paths(value: Any, path: Path = ()) -> list[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, item in items for deeper in paths(item, (*path, key)))]


def test_awkward_toml() -> None:
    lines = key_lines(AWKWARD)
    assert set(lines) == set(paths(tomllib.loads(AWKWARD))) - {()}
    written = AWKWARD.splitlines()
    expected = {("a", "b"): "a.b = 1", ("q.r",): '"q.r"', ("t", "u", "x", 1, 1): "   3]", ("arr", 1, "n"): "n = 1979"}
    for path, text in expected.items():
        assert written[lines[path] - 1].startswith(text)
    assert written[lines[("arr", 0, "sub", "k")] - 1] == "k = true"
    assert lines[("arr", 1, "deep", 1)] == len(written)


keys = st.text("abc-_ .\"'#=[]é\\\n\t", min_size=1, max_size=4)
scalars = st.one_of(
    st.integers(-99, 99), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
SPACES = st.sampled_from(["", " ", "\t "])
GAPS = st.sampled_from(["", " ", "\n", '  # ] } = "\n', "\n\n\t"])


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"'}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A document of random layout, and what it says."""

    def written(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, list):
            return f"[{','.join(draw(GAPS) + written(item) + draw(GAPS) for item in value)}{draw(GAPS)}]"
        if isinstance(value, dict):
            return (
                "{" + ", ".join(f"{quoted(k)}{draw(SPACES)}={draw(SPACES)}{written(v)}" for k, v in value.items()) + "}"
            )
        return repr(value)

    data = draw(st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=3))
    text = ""
    for table, content in data.items():
        text += f"{draw(GAPS)}\n[{draw(SPACES)}{quoted(table)}{draw(SPACES)}]\n"
        for key, value in content.items():
            text += f"{draw(SPACES)}{quoted(key)} ={draw(SPACES)}{written(value)} # end\n"
    return text, data


@given(documents())
def test_every_key_has_its_line(document: tuple[str, dict[str, Any]]) -> None:
    text, data = document
    assert tomllib.loads(text) == data
    lines = key_lines(text)
    assert set(lines) == set(paths(data)) - {()}
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert quoted(path[-1]) in text.split("\n")[line - 1]
