"""Our files are UTF-8 on every host: no text is read or written in the locale's encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for folder in ("src", "migrations", "training") for path in (ROOT / folder).rglob("*.py")
)
TEXT = {"read_text", "write_text"}


def calls_without_encoding(source: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(word.arg == "encoding" for word in node.keywords):
            match node.func:
                case ast.Attribute(attr=name) if name in TEXT:
                    yield node.lineno
                case ast.Name(id="open") if not is_binary(node, 1):
                    yield node.lineno
                case ast.Attribute(attr="open") if is_text(node):
                    yield node.lineno


def is_binary(call: ast.Call, position: int) -> bool:
    modes = [*call.args[position:], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def is_text(call: ast.Call) -> bool:
    """Whether this is `Path.open` in a mode of text; `open` is a method of others too."""
    match call.args:
        case [ast.Constant(value=str() as mode)]:
            return mode.strip("rwax+") == ""
    return False


def test_every_text_file_is_opened_with_its_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "call", ["p.read_text()", "p.write_text('x')", "open('x')", "open('x', 'w')", "p.open('a')"]
)
def test_a_call_without_an_encoding_is_found(call: str) -> None:
    assert list(calls_without_encoding(call)) == [1]


@pytest.mark.parametrize("call", ["p.open('rb')", "open(1, 'wb')", "os.open('x', 0)", "s.open()"])
def test_a_file_of_bytes_needs_none(call: str) -> None:
    assert list(calls_without_encoding(call)) == []
