"""Heads that two servers may read differently are refused; all others pass as h11 reads them."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest

from shared.strict_http import StrictConnection

POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "a length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "chunks and no length": POST + b"transfer-encoding: Chunked\r\ncontent-length: 0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "two equal lengths, apart": POST + b"content-length:3\r\nX: a\r\nCONTENT-LENGTH:\t3\r\n\r\nabc",
    "equal lengths in a list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a length with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length below 0": POST + b"Content-Length: -3\r\n\r\nabc",
    "a length in hexadecimal": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "a length with a gap": POST + b"Content-Length: 1 3\r\n\r\nabc",
    "a length with an underscore": POST + b"Content-Length: 1_3\r\n\r\nabc",
    "a length of other digits": POST + "Content-Length: \u0663\r\n\r\nabc".encode(),
    "a length that is blank": POST + b"Content-Length: \r\n\r\nabc",
    "a length beyond all": POST + b"Content-Length: " + b"9" * 21 + b"\r\n\r\nabc",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks in a list": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    "chunks that are almost": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunks behind another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunks before another coding": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "chunks with a control": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "chunks in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n',
    "chunks with a parameter": POST + b"Transfer-Encoding: chunked;x=y\r\n\r\n",
    "a coding that is none": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "a coding that is blank": POST + b"Transfer-Encoding:\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "a control in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x1b]0;x\x07\r\n\r\n",
    "a control in the target": b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "a head without end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
    "a name with a control": b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00: a\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "a folded header": POST + b"X: a\r\n b\r\n\r\n",
    "a header folded by a tab": POST + b"X: a\r\n\tb\r\n\r\n",
    "a folded length": POST + b"Content-Length:\r\n 3\r\n\r\nabc",
    "a folded first header": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "LF after the request line": b"GET / HTTP/1.1\nHost: localhost\r\n\r\n",
    "LF after a header": b"GET / HTTP/1.1\r\nHost: localhost\nX: a\r\n\r\n",
    "LF for the empty line": b"GET / HTTP/1.1\r\nHost: localhost\r\n\n",
    "LF everywhere": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "CR alone": b"GET / HTTP/1.1\r\nHost: localhost\rX: a\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "a version that is none": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "the next version": b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "a version to come": b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
    "the first version": b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n",
    "LF after a chunk's size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "LF after a chunk": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "LF at the end of the chunks": CHUNKED + b"3\r\nabc\r\n0\r\n\n",
    "a chunk with a sign": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk with a prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk with a gap in front": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "a chunk below 0": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk beyond all": CHUNKED + b"1" + b"0" * 20 + b"\r\nabc\r\n0\r\n\r\n",
    "a chunk that is shorter": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b";x\r\nabc\r\n0\r\n\r\n",
    "CR in a chunk's extension": CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "CR in the last extension": CHUNKED + b"3\r\nabc\r\n0;a\rb\r\n\r\n",
    "LF in a chunk's extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "NUL in a chunk's extension": CHUNKED + b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "CR in a trailer": CHUNKED + b"0\r\nX: a\rb\r\n\r\n",
    "LF after a trailer": CHUNKED + b"0\r\nX: a\n\r\n",
    "LF after the trailers": CHUNKED + b"0\r\nX: a\r\n\n",
    "a folded trailer": CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
}  # fmt: skip

PASSED = {
    "no body": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "a length": POST + b"Content-Length: 3\r\n\r\n\n\n ",
    "chunks": CHUNKED + b"3\r\n\n\n \r\n1;x=y\r\n\n\r\n0\r\n\r\n",
    "data of line ends": CHUNKED + b"5\r\na\r\n\rb\r\n1\r\n\r\r\n3\r\n\n\r\0\r\n0\r\n\r\n",
    "a length and a data of CR": POST + b"Content-Length: 3\r\n\r\n\r\r\0",
    "an extension in quotes": CHUNKED + b'3;x="a b"\r\nabc\r\n0\r\n\r\n',
    "a header in another script": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \xc3\xa9\tb\r\n\r\n",
    "a length in capitals": POST + b"CONTENT-LENGTH:  3\t\r\n\r\nabc",
    "a trailer": CHUNKED + b"0\r\nX: a\r\n\r\n",
}


def events(connection: StrictConnection, blocks: Iterable[bytes]) -> list[str]:
    """The names of all events, until more is needed."""
    names = []
    for block in blocks:
        connection.receive_data(block)
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            names.append(type(event).__name__)
    return names


def byte_by_byte(message: bytes) -> Iterable[bytes]:
    return (message[place : place + 1] for place in range(len(message)))


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_servers_read_differently_is_refused(name: str) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        events(StrictConnection(), [REFUSED[name]])
    with pytest.raises(h11.RemoteProtocolError):
        events(StrictConnection(), byte_by_byte(REFUSED[name]))


@pytest.mark.parametrize("name", PASSED)
def test_a_request_that_all_read_alike_passes_however_it_is_cut(name: str) -> None:
    message = PASSED[name]
    for blocks in ([message], byte_by_byte(message)):
        names = events(StrictConnection(), blocks)
        assert names[0] == "Request"
        assert names[-1] == "EndOfMessage"


def test_the_refusal_says_what_to_send_instead() -> None:
    connection = StrictConnection()
    with pytest.raises(h11.RemoteProtocolError):
        events(connection, [REFUSED["a length and chunks"]])
    assert connection.problem.endswith("send one of them")


def test_what_follows_on_a_kept_connection_is_checked_like_the_first() -> None:
    connection = StrictConnection()
    assert events(connection, [PASSED["chunks"]])[-1] == "EndOfMessage"
    connection.send(h11.Response(status_code=204, headers=[]))
    connection.send(h11.EndOfMessage())
    connection.start_next_cycle()
    assert events(connection, [PASSED["a length"]])[-1] == "EndOfMessage"
    connection.send(h11.Response(status_code=204, headers=[]))
    connection.send(h11.EndOfMessage())
    connection.start_next_cycle()
    with pytest.raises(h11.RemoteProtocolError):
        events(connection, [REFUSED["LF everywhere"]])
