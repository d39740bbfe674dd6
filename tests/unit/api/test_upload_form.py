"""The form in which a picture is sent: damaged in any way it is read or refused, and never kept."""

from __future__ import annotations

import random

import pytest

from api.uploads.form import FormReader
from shared.errors import InvalidInput

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
WHOLE = HEAD + b"Content-Type: image/png\r\n\r\n" + bytes(range(256)) + b"\r\n--x--\r\n"


def reader() -> FormReader:
    return FormReader("multipart/form-data; boundary=x", lambda part: lambda data: None)


def damaged(chance: random.Random) -> bytes:
    data = bytearray(WHOLE)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        match chance.choice(("changed", "changed", "lost", "repeated")):
            case "changed":
                data[place] = chance.randrange(256)
            case "lost":
                del data[place : place + chance.randint(1, 30)]
            case "repeated":
                data[place:place] = data[place : place + chance.randint(1, 40)]
        data = data or bytearray(b"-")
    return bytes(data)


def test_a_damaged_form_is_read_or_refused_in_whatever_pieces_it_comes() -> None:
    chance, refused = random.Random(7), 0
    for _ in range(1000):
        data, form = damaged(chance), reader()
        try:
            while data:
                size = chance.choice((1, 7, 100))
                form.feed(data[:size])
                data = data[size:]
            form.finish()
        except InvalidInput:
            refused += 1
    assert 200 < refused < 800


@pytest.mark.parametrize(
    "endless", [b"a" * 65_536, b"X-A: b\r\n" * 100], ids=["one line", "many lines"]
)
def test_the_head_of_a_part_has_an_end(endless: bytes) -> None:
    form = reader()
    form.feed(HEAD[:-3])
    with pytest.raises(InvalidInput, match="not a form that can be read"):
        for _ in range(1000):
            form.feed(endless if endless[0] == ord("a") else b"\r\n" + endless)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "multipart/form-data", "multipart/form-data; boundary=", "text/plain; boundary=x",
     "multipart/form-data; boundary=" + "a" * 100_000],
    ids=["none", "empty", "no boundary", "empty boundary", "another type", "a boundary of 100 kB"],
)  # fmt: skip
def test_what_is_no_form_is_refused(content_type: str | None) -> None:
    with pytest.raises(InvalidInput):
        FormReader(content_type, lambda part: lambda data: None)
