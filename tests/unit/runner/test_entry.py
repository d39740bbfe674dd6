from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from runner import entry
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


def test_entry_imports_nothing_but_the_standard_library() -> None:
    ran = python(
        "import sys; before = set(sys.modules); import runner.entry\n"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'__mp_main__'}))"
    )
    assert ran.stdout.strip() == "['runner']", ran.stderr


def test_environment_keeps_the_list_and_nothing_else() -> None:
    environment = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_MPS_PIPE_DIRECTORY": "secret",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "DREAMFORGE_RUNNER": "w1",
        "PYTHONPATH": "src",
        "DF_DATABASE_URL": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "secret",
        "HF_HUB_OFFLINE": "0",
        "PGPASSWORD": "secret",
        "LD_PRELOAD": "evil.so",
    }
    entry.scrub(environment)
    assert "secret" not in environment.values()
    assert "LD_PRELOAD" not in environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
    assert {"PATH", "HOME", "LC_ALL", "CUDA_VISIBLE_DEVICES", "DREAMFORGE_RUNNER"} <= set(
        environment
    )


def test_runner_with_another_parent_than_it_should_have_leaves_at_once() -> None:
    ran = python("import runner.entry as e; e.become_runner(1 << 22); print('still here')")
    assert (ran.returncode, ran.stdout) == (1, "")


def test_a_runner_gains_nothing_by_a_setuid_program() -> None:
    ran = python(
        "import runner.entry as e; e.refuse_privileges()\n"
        "print([line.split() for line in open('/proc/self/status') if 'NoNewPrivs' in line])"
    )
    assert ran.stdout.strip() == "[['NoNewPrivs:', '1']]", ran.stderr


def test_blocked_and_ignored_signals_are_reset() -> None:
    ran = python(
        "import os, signal, runner.entry as e\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "e.become_runner(os.getppid()); print(os.getsid(0) == os.getpid(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print('still here', flush=True)"
    )
    assert (ran.returncode, ran.stdout) == (-signal.SIGTERM, "True\n")


def test_runner_dies_with_its_parent() -> None:
    reader, writer = os.pipe()
    code = (
        "import os, sys, time, runner.entry as e\n"
        "parent = os.getpid()\n"
        "ready, told = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    e.become_runner(parent); os.write(told, b'x'); time.sleep(60); os._exit(0)\n"
        "os.read(ready, 1); os._exit(0)"
    )
    env = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=env, pass_fds=[writer], timeout=30, check=True)
    os.close(writer)
    readable, _, _ = select.select([reader], [], [], 10)
    assert readable, "the runner outlived its parent"
    assert os.read(reader, 1) == b""  # the last holder of the other end is gone
    os.close(reader)


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
