"""What a runner may say when. Nothing that it says is taken on trust."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from shared.limits import MAX_SEED
from shared.protocol.frames import Frame, FrameError
from shared.protocol.messages import (
    INTERFACE,
    GenerateParams,
    GenerateSpec,
    InputSpec,
    ModelSpec,
    PresetSpec,
    ResampleParams,
    Result,
    RunSpec,
    UpscaleSpec,
)
from supervisor.execution.runner_protocol import MAX_DEPTH, RunnerProtocol, check_storable

BODY = b"picture"
STEP: dict[str, Any] = {
    "job_id": "j",
    "step_id": "s",
    "step_name": "step",
    "preset": PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
}
READY: dict[str, Any] = {"type": "ready", "interface": INTERFACE, "pid": 1, "versions": {}}
RESULT: dict[str, Any] = {"type": "result", "items": 1, "allocator": {}}
FAILURE: dict[str, Any] = {"type": "failure", "reason": "oom", "message": "", "details": {}}
LOG: dict[str, Any] = {"type": "log", "level": "INFO", "code": "x", "message": "y"}
PROGRESS: dict[str, Any] = {
    "type": "progress", "stage": "sampling", "item_index": 0, "step": 1, "steps": 4
}  # fmt: skip


def spec(done: tuple[int, ...] = (), **changes: Any) -> GenerateSpec:
    usual: dict[str, Any] = {"prompt": "x", "width": 64, "height": 32, "steps": 4, "seed": 7}
    return GenerateSpec(
        **STEP,
        done_items=list(done),
        model=ModelSpec(
            id="m", name="m", version="1", kind="sd", folder="/m", checkpoint_sha256="0" * 64
        ),
        params=GenerateParams(**({"guidance": 3.0} | usual | changes)),
    )


def upscale(done: tuple[int, ...] = (), **changes: Any) -> UpscaleSpec:
    """Two pictures of 32x16, to be twice as large, with the seeds 7 and 8."""
    params = {"scale": 2, "count": 2} | changes
    inputs = [
        InputSpec(
            item_index=item, format="png", width=32, height=16, seed=7 + item, sha256="0" * 64
        )
        for item in range(params["count"])
    ]
    return UpscaleSpec(
        **STEP, done_items=list(done), params=ResampleParams(**params), inputs=inputs
    )


def artifact(item: int = 0, **changes: Any) -> dict[str, Any]:
    usual = {
        "type": "artifact",
        "item_index": item,
        "format": "png",
        "width": 64,
        "height": 32,
        "seed": 7 + item,
        "sha256": hashlib.sha256(BODY).hexdigest(),
    }
    return usual | changes


PREVIEW: dict[str, Any] = {
    "type": "preview", "item_index": 0, "step": 1, "steps": 4, "width": 128, "height": 64
}  # fmt: skip
JPEG = b"\xff\xd8\xff small"


def test_a_preview_comes_once_for_each_request() -> None:
    protocol = RunnerProtocol(spec())
    assert not protocol.ask_preview()  # before GO
    protocol = began()
    for _ in range(2):
        assert protocol.ask_preview()
        assert not protocol.ask_preview()  # the answer is on its way
        protocol.accept(Frame(PREVIEW, JPEG))
        with pytest.raises(FrameError, match="did not ask"):
            protocol.accept(Frame(PREVIEW, JPEG))


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({}, b""),
        ({}, b"\x89PNG"),
        ({}, JPEG + bytes(64 << 10)),
        ({"item_index": 1}, JPEG),
        ({"step": 5}, JPEG),
        ({"width": 513}, JPEG),
        ({"height": 0}, JPEG),
    ],
)
def test_a_preview_that_cannot_be_is_refused(changes: dict[str, Any], body: bytes) -> None:
    protocol = began()
    assert protocol.ask_preview()
    with pytest.raises(FrameError):
        protocol.accept(Frame(PREVIEW | changes, body))


def began(done: tuple[int, ...] = (), **changes: Any) -> RunnerProtocol:
    """A protocol in which the runner has its GO."""
    return with_go(spec(done, **changes))


def with_go(spec: RunSpec) -> RunnerProtocol:
    protocol = RunnerProtocol(spec)
    protocol.accept(Frame(READY))
    protocol.go_sent()
    return protocol


def want(item: int) -> dict[str, Any]:
    return {"type": "want", "item_index": item}


def refused(
    protocol: RunnerProtocol, header: dict[str, Any], message: str, body: bytes = b""
) -> None:
    with pytest.raises(FrameError, match=message):
        protocol.accept(Frame(header, body))


def test_a_decent_step_is_heard_to_its_end() -> None:
    protocol = began(count=2)
    for item in (1, 0):
        protocol.accept(Frame(PROGRESS | {"item_index": item}))
        protocol.accept(Frame(artifact(item), BODY))
    protocol.accept(Frame(LOG))
    assert isinstance(protocol.accept(Frame(RESULT)), Result)


@pytest.mark.parametrize("header", [LOG, PROGRESS, RESULT, artifact()])
def test_nothing_but_a_failure_comes_before_ready(header: dict[str, Any]) -> None:
    body = BODY if header["type"] == "artifact" else b""
    refused(RunnerProtocol(spec()), header, "before ready", body)
    RunnerProtocol(spec()).accept(Frame(FAILURE))


@pytest.mark.parametrize("header", [PROGRESS, RESULT, artifact()])
def test_no_work_is_spoken_of_before_go(header: dict[str, Any]) -> None:
    protocol = RunnerProtocol(spec())
    protocol.accept(Frame(READY))
    protocol.accept(Frame(LOG))
    refused(protocol, header, "before go", BODY if header["type"] == "artifact" else b"")


def test_an_input_is_asked_for_once_one_at_a_time_and_only_for_what_is_open() -> None:
    protocol = with_go(upscale(done=(2,), count=4))
    refused(protocol, want(2), "not to be had")
    refused(protocol, want(4), "not to be had")
    protocol.accept(Frame(want(0)))
    refused(protocol, want(1), "while item 0 is on its way")
    protocol.input_sent()
    refused(protocol, want(0), "not to be had")
    protocol.accept(Frame(want(1)))


def test_nobody_asks_for_inputs_before_go_or_without_a_step_before() -> None:
    early = RunnerProtocol(upscale())
    early.accept(Frame(READY))
    refused(early, want(0), "before go")
    refused(began(), want(0), "not to be had")


@pytest.mark.parametrize("changes", [{"width": 32}, {"height": 16}, {"seed": 8}, {"format": "jpg"}])
def test_an_enlarged_picture_is_as_large_as_asked_and_keeps_its_seed(
    changes: dict[str, Any],
) -> None:
    with_go(upscale()).accept(Frame(artifact(0), BODY))
    refused(with_go(upscale()), artifact(0, **changes), "artifact", BODY)


def test_a_runner_of_another_interface_is_not_talked_to() -> None:
    for interface in (INTERFACE - 1, INTERFACE + 1):
        message = f"a runner of interface {interface}, this worker speaks {INTERFACE}"
        refused(RunnerProtocol(spec()), READY | {"interface": interface}, message)


def test_ready_comes_once() -> None:
    refused(began(), READY, "again")


@pytest.mark.parametrize("last", [RESULT, FAILURE])
@pytest.mark.parametrize("header", [LOG, PROGRESS, RESULT, FAILURE])
def test_after_the_end_there_is_silence(last: dict[str, Any], header: dict[str, Any]) -> None:
    protocol = began()
    protocol.accept(Frame(artifact(), BODY))
    protocol.accept(Frame(last))
    refused(protocol, header, "after the end")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (artifact(1), "not open"),
        (artifact(format="jpg"), "jpg"),
        (artifact(width=65), "65x32"),
        (artifact(height=33), "64x33"),
        (artifact(seed=8), "seed 8, not 7"),
        (artifact(sha256="0" * 64), "hash"),
        (artifact(sha256="short"), "sha256"),
        (artifact() | {"extra": 1}, "extra"),
    ],
)
def test_an_image_is_the_one_that_was_asked_for(header: dict[str, Any], message: str) -> None:
    refused(began(), header, message, BODY)


def test_an_item_comes_once_and_not_when_it_is_done() -> None:
    protocol = began(done=(1,), count=2)
    refused(protocol, artifact(1), "not open", BODY)
    protocol.accept(Frame(artifact(0), BODY))
    refused(protocol, artifact(0), "not open", BODY)


def test_a_result_comes_with_every_item() -> None:
    protocol = began(done=(1,), count=3)
    protocol.accept(Frame(artifact(0), BODY))
    refused(protocol, RESULT, "1 items missing")
    protocol.accept(Frame(artifact(2), BODY))
    protocol.accept(Frame(RESULT))


def test_seeds_wrap_where_json_numbers_end() -> None:
    protocol = began(seed=MAX_SEED - 1, count=2)
    protocol.accept(Frame(artifact(0, seed=MAX_SEED - 1), BODY))
    protocol.accept(Frame(artifact(1, seed=0), BODY))


def test_without_a_seed_asked_for_any_is_taken() -> None:
    began(seed=None).accept(Frame(artifact(seed=12345), BODY))


@pytest.mark.parametrize("header", [LOG, PROGRESS, FAILURE, RESULT])
def test_only_an_image_has_a_body(header: dict[str, Any]) -> None:
    refused(began(), header, "body of 7 bytes", BODY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 5}, "step 5 of 4"),
        ({"item_index": 1}, "item 1 of 1"),
        ({"item_index": -1}, "item_index"),
        ({"step": True}, "step"),
        ({"stage": "dreaming"}, "stage"),
    ],
)
def test_progress_stays_within_its_bounds(changes: dict[str, Any], message: str) -> None:
    refused(began(), PROGRESS | changes, message)


# What PostgreSQL cannot keep ----------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"x": "a\0b"}, "NUL"),
        ({"a\0b": 1}, "NUL"),
        ({"x": [1, {"y": "\ud800"}]}, "Unicode"),
        ({"\ud800": 1}, "Unicode"),
        ({"x": [float("nan")]}, "nan"),
        ({"x": float("-inf")}, "inf"),
        ({"x": 2**63}, "64 bits"),
        ({"x": [-(10**400)]}, "64 bits"),
        ({"x": nested(MAX_DEPTH)}, "deeper"),
        ({"x": nested(100_000)}, "deeper"),
    ],
)
def test_what_cannot_be_stored_is_refused_wherever_it_is(
    payload: dict[str, Any], message: str
) -> None:
    refused(began(), LOG | {"payload": payload}, message)


def test_what_can_be_stored_is_let_through() -> None:
    check_storable({"a": ["ü", "\U0001f600", 1.5, None, True, nested(5)], "": -(2**60)})
