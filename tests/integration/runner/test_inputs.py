"""The real runner, waiting for a picture, and a worker that breaks its word."""

from __future__ import annotations

import hashlib
import socket

import pytest
from tests.support.runner_peer import Peer

from shared.protocol.frames import encode
from shared.protocol.messages import (
    Artifact,
    Input,
    InputSpec,
    PresetSpec,
    ResampleParams,
    UpscaleSpec,
    Want,
)

PICTURE = b"as far as the pipe is concerned, any bytes"
SHA256 = hashlib.sha256(PICTURE).hexdigest()


def spec() -> UpscaleSpec:
    return UpscaleSpec(
        job_id="job",
        step_id="step",
        step_name="upscale",
        preset=PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
        params=ResampleParams(scale=2, count=1),
        inputs=[
            InputSpec(item_index=0, format="png", width=8, height=8, seed=7, sha256=SHA256),
        ],
    )


@pytest.mark.parametrize("lie", ["truncated", "another picture"])
def test_a_runner_ends_itself_rather_than_work_on_what_it_was_not_promised(lie: str) -> None:
    message = Input(item_index=0, sha256=SHA256)
    with Peer() as peer:
        peer.go(spec())
        assert peer.until(Want) == Want(item_index=0)
        if lie == "truncated":
            peer.socket.sendall(encode(message.model_dump(), PICTURE)[:-1])
            peer.socket.shutdown(socket.SHUT_WR)
        else:
            peer.send(message, PICTURE[::-1])
        assert peer.exit_code() is not None
        assert not peer.all(Artifact)
