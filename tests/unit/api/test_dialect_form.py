"""A form of OpenAI's clients, and the pictures that a request to edit names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest

from api.dialect.edits import named
from api.dialect.form import MAX_PARTS, MAX_TEXT_BYTES, Form, read_form
from shared.errors import DreamForgeError, InvalidInput, PayloadTooLarge

NO_STORE: Any = SimpleNamespace(
    settings=SimpleNamespace(max_input_bytes=1000), database=None, store=None
)


def read(
    fields: dict[str, Any], files: dict[str, bytes] | None = None, piece: int = 7
) -> dict[str, Any]:
    """The fields of a form as a client writes it, arriving in pieces."""
    request = httpx.Request(
        "POST",
        "http://a",
        data=fields,
        files={name: ("a", data) for name, data in (files or {"mask": b""}).items()},
    )
    whole = request.read()

    async def body() -> AsyncGenerator[bytes]:
        for start in range(0, len(whole), piece):
            yield whole[start : start + piece]

    async def main() -> Form:
        return await read_form(body(), request.headers["content-type"], NO_STORE, "default")

    return anyio.run(main).fields


def refused(fields: dict[str, Any], files: dict[str, bytes] | None = None) -> DreamForgeError:
    with pytest.raises((InvalidInput, PayloadTooLarge)) as raised:
        read(fields, files, piece=4096)
    return raised.value


def test_texts_become_what_json_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dialect.form._Parts._open_file", lambda *_: lambda data: None)
    monkeypatch.setattr("api.dialect.form._Parts.close_file", _nothing)
    found = read(
        {
            "prompt": "1984",
            "n": "2",
            "stream": "true",
            "strength": "0.5",
            "seed": "9007199254740991",
            "size": "64x64",
            "quality": "auto",
            "background": "null",
            "user": "12",
            "tags[order]": "7",
            "tags[a/b]": "true",
            "chain[upscale][scale]": "2",
            "chain[upscale][impl]": "resample",
            "negative_prompt": "",
            "steps": "[[[[[[",
        }
    )
    assert found == {
        "prompt": "1984",
        "n": 2,
        "stream": True,
        "strength": 0.5,
        "seed": 9007199254740991,
        "size": "64x64",
        "quality": "auto",
        "background": None,
        "user": "12",
        "tags": {"order": "7", "a/b": "true"},
        "chain": {"upscale": {"scale": 2, "impl": "resample"}},
        "negative_prompt": "",
        "steps": "[[[[[[",
    }


async def _nothing(_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a[": "1"}, "a[: is not known here"),
        ({"a": "1", "a[b]": "2"}, "a[b]: is a value"),
        ({"prompt": ["a", "b"]}, "prompt: is there more than once"),
        ({f"f{number}": "x" for number in range(MAX_PARTS + 1)}, "the form has more than 100"),
        ({"prompt": "x" * (MAX_TEXT_BYTES + 1)}, "the texts of the form are over"),
    ],
)
def test_a_form_that_says_no_request_is_refused(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("api.dialect.form._Parts._open_file", lambda *_: lambda data: None)
    monkeypatch.setattr("api.dialect.form._Parts.close_file", _nothing)
    assert refused(fields).message.startswith(message)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"other": b""}, "other: no file is expected here"),
        ({"image": b"no picture at all"}, "image: it is no PNG, JPEG or WebP"),
        ({"mask": b""}, "mask: it ends too early"),
        ({"image[]": b"\x89PNG\r\n\x1a\n" + b"x" * 1000}, "image: "),
    ],
)
def test_a_file_is_refused_by_the_name_that_it_has(files: dict[str, bytes], message: str) -> None:
    error = refused({"prompt": "x"}, files)
    assert error.message.startswith(message)


ID, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"image": ID}, {"image": ID}),
        ({"image": [ID]}, {"image": ID}),
        ({"images": [{"file_id": ID}, OTHER]}, {"images": [ID, OTHER]}),
        (
            {"image": ID, "mask": {"file_id": OTHER}},
            {"image": ID, "mask": OTHER, "mask_rule": "transparent"},
        ),
        (
            {"image": ID, "mask": OTHER, "mask_rule": "white", "seed": 1},
            {"image": ID, "mask": OTHER, "mask_rule": "white", "seed": 1},
        ),
    ],
)
def test_pictures_are_named_as_in_a_create(body: dict[str, Any], fields: dict[str, Any]) -> None:
    assert named(body).fields(edits=False) == fields


def test_an_edit_model_gets_a_single_picture_as_one_of_its_pictures() -> None:
    assert named({"image": ID}).fields(edits=True) == {"images": [ID]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "image"),
        ({"image": []}, "image"),
        ({"image": 7}, "image"),
        ({"image": [[ID]]}, "image"),
        ({"images": [{"image_url": "https://example.org/a.png"}]}, "images"),
        ({"image": ID, "mask": [ID, OTHER]}, "mask"),
    ],
)
def test_what_names_no_picture_is_refused(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        named(body)
    assert raised.value.details["field"] == field
