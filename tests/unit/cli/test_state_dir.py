"""The state folder: one owner, lasting secrets and ports, private files."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import StackError
from cli.state_dir import StateDir, port_is_free

_LOCK = """
import pathlib, sys
from cli.state_dir import StateDir
with StateDir(pathlib.Path(sys.argv[1])).lock():
    pass
"""


def test_a_second_owner_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    with StateDir(tmp_path).lock():
        second = subprocess.run(
            [sys.executable, "-c", _LOCK, str(tmp_path)], capture_output=True, text=True
        )
    assert second.returncode != 0
    last = second.stderr.strip().splitlines()[-1]
    assert f"is in use by another dreamforge (pid {os.getpid()})" in last
    assert "DF_HOME" in last


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with StateDir(tmp_path).lock():
            pass


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="DF_HOME="), StateDir(tmp_path / "file" / "x").lock():
        pass


def test_credentials_last_are_random_and_private(tmp_path: Path) -> None:
    first = StateDir(tmp_path).credential("postgres")
    assert StateDir(tmp_path).credential("postgres") == first
    assert len(first) == 40
    assert StateDir(tmp_path).credential("broker") != first
    assert (tmp_path / "credentials.json").stat().st_mode & 0o777 == 0o600


def test_a_port_is_remembered_while_it_is_free(tmp_path: Path) -> None:
    port = StateDir(tmp_path).port("store")
    assert 8100 <= port <= 8999
    assert StateDir(tmp_path).port("store") == port
    assert StateDir(tmp_path).port("broker") != port
    with socket.create_server(("127.0.0.1", port)):
        assert not port_is_free("127.0.0.1", port)
        assert StateDir(tmp_path).port("store") != port


def test_two_stacks_that_start_at_once_choose_other_ports(tmp_path: Path) -> None:
    """The second chooses while no part of the first listens yet."""
    first, second = StateDir(tmp_path / "first"), StateDir(tmp_path / "second")
    with first.lock():
        port = first.port("store")
        assert first.port("store") == port
        with second.lock():
            second.write("ports.json", {"store": port})
            assert second.port("store") != port
    with second.lock():
        second.write("ports.json", {"store": port})
        assert second.port("store") == port


def test_a_file_cut_short_by_a_crash_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"store": 81')
    assert StateDir(tmp_path).read("ports.json") == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"\xff", b"[]", b"5", b"[" * 100_000, b'{"a', b'{"broker": "x"}',
     b'{"broker": null, "store": [1], "x": 99999999}'],
)  # fmt: skip
def test_a_file_that_a_crash_left_damaged_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_bytes(content)
    home = StateDir(tmp_path)
    port = home.port("broker")
    assert home.port("broker") == port == home.read("ports.json")["broker"]


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\xff", b"[]", b'{"postgres": "1f'])
def test_damaged_passwords_are_said_and_never_made_anew(content: bytes, tmp_path: Path) -> None:
    """New ones would not open the data that is there."""
    file = tmp_path / "credentials.json"
    file.write_bytes(content)
    with pytest.raises(StackError, match=r"credentials\.json is damaged.*backup"):
        StateDir(tmp_path).credential("postgres")
    assert file.read_bytes() == content
