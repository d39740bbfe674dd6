from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from runner.ipc.channel import Channel
from runner.job_types.generate import seed_of
from runner.process.cancellation import Cancelled, Stop
from shared.limits import MAX_SEED
from shared.protocol.frames import FrameError, encode
from shared.protocol.messages import Artifact, Cancel, Lease

PYTHONPATH = os.pathsep.join(sys.path)


def python(code: str, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def test_entry_imports_nothing_but_the_standard_library_and_ours() -> None:
    ran = python(
        "import sys; before = set(sys.modules); import runner.entry\n"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'__mp_main__'}))"
    )
    assert ran.stdout.strip() == "['runner', 'shared']", ran.stderr


def test_channel_reads_frames_in_any_pieces_and_knows_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        channel = Channel(theirs.fileno())
        theirs.close()  # the channel has a descriptor of its own
        data = encode(Lease(dies_at=1.0).model_dump()) + encode(Cancel().model_dump())
        for begin in range(0, len(data), 7):
            ours.sendall(data[begin : begin + 7])
        assert channel.receive() == (Lease(dies_at=1.0), b"")
        assert channel.receive() == (Cancel(), b"")
        ours.shutdown(socket.SHUT_WR)
        assert channel.receive() is None
        channel.close()


@pytest.mark.parametrize(
    "data", [b"\0" * 8, encode({"type": "ready"}), encode({"type": "cancel"}, b"body")]
)
def test_channel_refuses_what_a_worker_never_says(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs.fileno())
        ours.sendall(data)
        with pytest.raises(FrameError):
            channel.receive()
        channel.close()


def test_channel_sends_a_body_behind_its_header() -> None:
    ours, theirs = socket.socketpair()
    artifact = Artifact(item_index=0, format="png", width=1, height=1, seed=0, sha256="0" * 64)
    with ours, theirs:
        channel = Channel(theirs.fileno())
        channel.send(artifact, b"body")
        assert ours.recv(4096) == encode(artifact.model_dump(), b"body")
        channel.close()


def test_stop_raises_only_after_it_was_asked() -> None:
    stop = Stop()
    stop.check()
    stop.request()
    with pytest.raises(Cancelled):
        stop.check()


def test_given_seed_counts_up_and_wraps() -> None:
    assert [seed_of(MAX_SEED - 2, i) for i in range(4)] == [MAX_SEED - 2, MAX_SEED - 1, 0, 1]


def test_seeds_that_were_not_given_are_fresh_and_in_range() -> None:
    drawn = {seed_of(None, 0) for _ in range(100)}
    assert len(drawn) == 100
    assert all(0 <= seed < MAX_SEED for seed in drawn)
    assert max(drawn) > 2**45
