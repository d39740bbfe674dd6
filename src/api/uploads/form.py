"""Reads `multipart/form-data` in the pieces in which it arrives; nothing is kept.

The parser is that of `python-multipart`. FastAPI's own way would put every file of a form on a disk
before the route runs, and there is no telling how many.
"""

from collections.abc import Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shared.errors import InvalidInput

Sink = Callable[[bytes], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartHead:
    """What a part of a form says about itself. `filename` is None for a field that is no file."""

    name: str
    filename: str | None


class FormReader:
    """One form. `open_part` takes each part's head and returns what gets its bytes.

    `open_part` and the sinks may raise `InvalidInput`, which `feed` passes on.
    """

    def __init__(self, content_type: str | None, open_part: Callable[[PartHead], Sink]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput(
                "the body must be a form, with Content-Type: multipart/form-data and its boundary"
            )
        self._open_part = open_part
        self._sink: Sink | None = None
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_head,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _unreadable() from None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body. Raises `InvalidInput` where they are no form."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise _unreadable() from None

    def finish(self) -> None:
        """The body has ended. Raises `InvalidInput` where the form has not."""
        if not self._complete:
            raise InvalidInput("the body ends inside the form; send it again, whole")

    def _begin_part(self) -> None:
        self._disposition = b""

    def _end_header(self) -> None:
        if bytes(self._name).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_head(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise _unreadable()
        filename = options.get(b"filename")
        self._sink = self._open_part(
            PartHead(
                name=name.decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace"),
            )
        )

    def _take(self, data: bytes, start: int, end: int) -> None:
        assert self._sink is not None  # a part's head comes before its data
        self._sink(data[start:end])

    def _end(self) -> None:
        self._complete = True


def _unreadable() -> InvalidInput:
    return InvalidInput("the body is not a form that can be read (multipart/form-data)")
