"""The real runner, spawned and forked as the supervisor does it, spoken to in frames."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from PIL import Image
from tests.support.runner_peer import (
    Peer,
    confess,
    deaf_to_alarms,
    run_spec,
    stuck_in_c,
    stuck_with_gil,
    third_picture_fails,
)
from tests.support.tiny_model import build_tiny_model

from shared.limits import MAX_SEED
from shared.linux.sandbox import Sandbox
from shared.protocol.messages import Artifact, Cancel, Failure, FromRunner, Progress, Ready, Result
from supervisor.processes.containment import read_kernel


class Batch(NamedTuple):
    seen: list[tuple[FromRunner, bytes]]
    facts: dict[str, Any]
    exit_code: int | None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as one:
        yield one


@pytest.fixture(scope="module")
def batch(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """One step of five items with two done already, in a runner that tells what it inherited."""
    path = tmp_path_factory.mktemp("confession") / "facts.json"
    secrets = {"DF_DATABASE_URL": "postgresql://secret", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ.update(secrets)
    try:
        with Peer.spawned(confess, str(path)) as peer:
            peer.go(run_spec(model, count=5, seed=MAX_SEED - 2, done_items=[0, 3]))
            peer.outcome()
            code = peer.exit_code()
            return Batch(list(peer.seen), json.loads(path.read_text()), code)
    finally:
        for name in secrets:
            del os.environ[name]


def test_batch_loads_once_and_says_ready_first_and_result_last(
    batch: Batch,
) -> None:
    messages = [message for message, _ in batch.seen]
    assert isinstance(messages[0], Ready)
    assert isinstance(messages[-1], Result)
    assert messages[-1].items == 3
    loads = [m for m in messages if isinstance(m, Progress) and m.stage == "load"]
    assert [(m.step, m.steps) for m in loads] == [(0, 1), (1, 1)]
    assert batch.exit_code == 0


def test_every_sampling_step_of_every_item_is_reported_in_order(
    batch: Batch,
) -> None:
    progress = [m for m, _ in batch.seen if isinstance(m, Progress) and m.item_index is not None]
    expected = [
        (item, stage, step)
        for item in (1, 2, 4)
        for stage, steps in (("sampling", range(4)), ("decode", range(2)))
        for step in steps
    ]
    assert [(m.item_index, m.stage, m.step) for m in progress] == expected


def test_items_not_done_yet_arrive_with_their_seeds_hashes_and_metadata(
    batch: Batch,
) -> None:
    artifacts = [(m, body) for m, body in batch.seen if isinstance(m, Artifact)]
    assert [(m.item_index, m.seed) for m, _ in artifacts] == [(1, MAX_SEED - 1), (2, 0), (4, 2)]
    for message, body in artifacts:
        assert hashlib.sha256(body).hexdigest() == message.sha256
        image = Image.open(io.BytesIO(body))
        assert image.size == (message.width, message.height) == (64, 64)
        facts = json.loads(image.info["dreamforge"])
        assert (facts["seed"], facts["item_index"]) == (message.seed, message.item_index)
    assert len({body for _, body in artifacts}) == 3


def test_runner_has_nothing_of_its_parent(
    batch: Batch,
) -> None:
    facts = batch.facts
    environ, modules, fds = facts["environ"], facts["modules"], facts["fds"]
    assert "secret" not in json.dumps(environ)
    assert not [name for name in environ if name.startswith("DF_")]
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert facts["sid"] == facts["pid"]
    tops = {name.partition(".")[0] for name in modules}
    foreign = {"celery", "kombu", "redis", "sqlalchemy", "psycopg", "minio", "api", "supervisor"}
    assert not tops & foreign
    # A named semaphore (tqdm makes one) would outlive a killed runner in /dev/shm.
    assert facts["tracked"] == []
    # Ours, a copy of it, the parent's sentinel and multiprocessing's tracker; no file, no port.
    assert len([fd for fd in fds if fd.startswith("socket:")]) <= 4
    assert not [fd for fd in fds if fd.startswith("/") and not fd.startswith("/dev/")]


def test_same_step_in_a_spawned_and_a_forked_process_gives_the_same_bytes(model: Path) -> None:
    spec = run_spec(model, seed=7, scheduler="euler_a")
    with Peer.spawned() as one, Peer() as other:
        bodies = []
        for peer in (one, other):
            peer.go(spec).outcome()
            bodies.append([body for message, body in peer.seen if isinstance(message, Artifact)])
    assert bodies[0] == bodies[1]
    assert len(bodies[0]) == 1


@pytest.mark.slow
def test_a_batch_of_twenty_is_one_process_with_one_load_and_no_growth(
    model: Path,
) -> None:
    with Peer() as peer:
        peer.go(run_spec(model, count=20, seed=3, scheduler="dpmpp_2m_sde_karras"))
        resident_bytes, names = [], []
        for _ in range(20):
            names.append(peer.until(Artifact).item_index)
            process = psutil.Process(peer.process.pid)
            resident_bytes.append(process.memory_info().rss)
            assert process.children() == []
        assert isinstance(peer.outcome(), Result)
        assert names == list(range(20))
        loads = [m.step for m in peer.all(Progress) if m.stage == "load"]
        assert loads == [0, 1]
        # The first items warm the allocator up; a picture that stayed would be seen twenty times.
        assert max(resident_bytes[5:]) - resident_bytes[4] < 32 << 20
        last = [body for message, body in peer.seen if isinstance(message, Artifact)][-1]
    with Peer() as alone:
        alone.go(run_spec(model, count=1, seed=3 + 19, scheduler="dpmpp_2m_sde_karras")).outcome()
        (again,) = [body for message, body in alone.seen if isinstance(message, Artifact)]
    # An item is the picture of its own seed, whatever was drawn before it in the same process.
    assert Image.open(io.BytesIO(again)).tobytes() == Image.open(io.BytesIO(last)).tobytes()


def test_a_picture_that_cannot_be_encoded_fails_the_step_and_keeps_those_before(
    model: Path,
) -> None:
    with Peer(third_picture_fails) as peer:
        outcome = peer.go(run_spec(model, count=20, seed=1)).outcome()
        assert isinstance(outcome, Failure)
        assert (outcome.reason, outcome.details["item_index"]) == ("provider_error", 2)
        assert outcome.message == "error while encoding the picture: the encoder broke"
        assert [artifact.item_index for artifact in peer.all(Artifact)] == [0, 1]
        # It was noticed with the next picture, and no further one was begun.
        assert max(m.item_index or 0 for m in peer.all(Progress)) == 3
        assert peer.exit_code() == 0


@pytest.mark.parametrize("how", ["cancel frame", "SIGTERM"])
def test_being_asked_to_stop_ends_between_two_sampling_steps(
    peer: Peer, model: Path, how: str
) -> None:
    peer.go(run_spec(model, steps=200, count=100, seed=1))
    while peer.until(Progress).stage == "load":
        continue
    if how == "SIGTERM":
        peer.process.terminate()
    else:
        peer.cancel()
    outcome = peer.outcome()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "cancelled"
    assert outcome.details["item_index"] == 0
    assert not peer.all(Artifact)
    assert peer.exit_code() == 0


def test_cancel_before_go_and_a_closed_standby_end_at_once(peer: Peer) -> None:
    peer.until(Ready)
    peer.send(Cancel())
    outcome = peer.outcome()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "cancelled"
    assert peer.exit_code() == 0


def test_sigterm_ends_a_runner_that_is_stuck_in_c_code(model: Path) -> None:
    with Peer(stuck_in_c) as peer:
        peer.go(run_spec(model))
        peer.until(Progress)
        assert peer.process.pid is not None
        began = time.monotonic()
        os.kill(peer.process.pid, signal.SIGTERM)
        assert peer.exit_code() == 143
        assert time.monotonic() - began < 10


def test_a_contained_runner_draws_the_same_bytes(
    batch: Batch, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = read_kernel()
    sandbox = Sandbox(
        landlock_abi=kernel.landlock_abi, seccomp=kernel.seccomp, models=str(model.parent)
    )
    for name, value in sandbox.to_environment().items():
        monkeypatch.setenv(name, value)
    with Peer.spawned() as peer:
        peer.go(run_spec(model, count=5, seed=MAX_SEED - 2, done_items=[0, 3]))
        assert isinstance(peer.outcome(), Result)
        assert _pictures(peer.seen) == _pictures(batch.seen)


def _pictures(seen: list[tuple[FromRunner, bytes]]) -> list[bytes]:
    return [body for message, body in seen if isinstance(message, Artifact)]


@pytest.mark.parametrize("stuck", [stuck_with_gil, deaf_to_alarms])
def test_the_lease_timer_kills_whatever_the_code_holds_or_handles(
    model: Path, stuck: Callable[..., None]
) -> None:
    with Peer(stuck) as peer:
        peer.go(run_spec(model), lease_s=2.0)
        peer.until(Progress)
        assert peer.exit_code() == -signal.SIGKILL


def test_lease_frames_push_the_lease_timer_back(peer: Peer, model: Path) -> None:
    peer.go(run_spec(model, steps=200, count=100, seed=1))
    while peer.until(Progress).stage == "load":  # which says nothing for as long as it takes
        continue
    peer.lease(2.0)
    deadline = time.monotonic() + 4.0
    while time.monotonic() < deadline:
        peer.until(Progress)
        peer.lease(2.0)
    peer.lease(0.05)
    assert peer.exit_code() == -signal.SIGKILL


def test_a_lease_that_lay_in_the_socket_ends_when_it_was_to_end(peer: Peer, model: Path) -> None:
    """What counts is when the lease was renewed, not when the runner came to read of it."""
    peer.go(run_spec(model, steps=200, count=100, seed=1))
    peer.until(Progress)
    assert peer.process.pid is not None
    os.kill(peer.process.pid, signal.SIGSTOP)
    peer.lease(3.0)
    sent = time.monotonic()
    time.sleep(2.0)  # how long it lies there is the subject
    os.kill(peer.process.pid, signal.SIGCONT)
    assert peer.exit_code() == -signal.SIGKILL
    assert 2.9 < time.monotonic() - sent < 4.5


@pytest.mark.parametrize("message", ["go", "lease"])
def test_a_runner_does_nothing_under_a_lease_that_has_ended(
    peer: Peer, model: Path, message: str
) -> None:
    """Its worker was stopped between the look at its fence and the word to the runner."""
    spec = run_spec(model, steps=200, count=100, seed=1)
    if message == "go":
        peer.go(spec, lease_s=-1.0)
    else:
        peer.go(spec).until(Progress)
        peer.lease(-1.0)
    assert peer.exit_code() == -signal.SIGKILL
    assert not peer.all(Artifact)


def test_runner_ends_when_its_worker_closes_the_pipe(model: Path) -> None:
    with Peer() as peer:
        peer.go(run_spec(model, steps=200, count=100, seed=1))
        peer.until(Progress)
        peer.socket.close()
        assert peer.exit_code() not in (None, 0)


def test_broken_model_is_named_without_a_path_of_the_host(peer: Peer, model: Path) -> None:
    folder = model.parent / "broken"
    shutil.copytree(model, folder)
    spec = run_spec(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(b"<html>please sign in</html>".ljust(len(data)))
    outcome = peer.go(spec).outcome()
    assert isinstance(outcome, Failure)
    assert outcome.reason == "model_unavailable"
    assert outcome.details["file"] == "unet/diffusion_pytorch_model.safetensors"
    assert "unet/diffusion_pytorch_model.safetensors" in outcome.message
    assert str(model.parent) not in outcome.model_dump_json()
    assert peer.exit_code() == 0
