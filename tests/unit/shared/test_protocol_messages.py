from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.limits import MAX_SEED
from shared.protocol.frames import FrameDecoder, FrameError, encode
from shared.protocol.messages import (
    Artifact,
    Cancel,
    Failure,
    FromRunner,
    GenerateParams,
    GenerateSpec,
    Go,
    Input,
    InputSpec,
    Lease,
    Log,
    LoraParams,
    ModelSpec,
    PresetSpec,
    Preview,
    Progress,
    Ready,
    ResampleParams,
    Result,
    Show,
    SourceSpec,
    ToRunner,
    UpscaleSpec,
    Want,
    parse_from_runner,
    parse_to_runner,
)

SPEC = GenerateSpec(
    job_id="j",
    step_id="s",
    step_name="generate",
    model=ModelSpec(
        id="m", name="m", version="1", kind="sd", folder="/m", checkpoint_sha256="0" * 64
    ),
    preset=PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
    params=GenerateParams(
        prompt="\u732b and \U0001f4a1",
        width=64,
        height=64,
        steps=1,
        guidance=3.0,
        seed=MAX_SEED - 1,
        strength=0.75,
        loras=[
            LoraParams(id="l", name="l", version="1", checkpoint_sha256="3" * 64, scale=-0.5),
        ],
    ),
    lora_folders=["/l"],
    done_items=[0, 2],
    inputs=[
        SourceSpec(
            item_index=0,
            role="image",
            id="i",
            format="webp",
            width=64,
            height=48,
            orientation=6,
            sha256="2" * 64,
        )
    ],
)
UPSCALE = UpscaleSpec(
    job_id="j",
    step_id="t",
    step_name="upscale",
    preset=SPEC.preset,
    params=ResampleParams(scale=2, count=1),
    inputs=[
        InputSpec(item_index=0, format="png", width=64, height=64, seed=5, sha256="1" * 64),
    ],
)
ARTIFACT = Artifact(item_index=0, format="png", width=1, height=1, seed=0, sha256="0" * 64)

FROM_RUNNER: list[FromRunner] = [
    Ready(interface=5, pid=1, versions={"torch": "2"}),
    Progress(stage="load", step=0, steps=1),
    Progress(stage="sampling", item_index=3, step=2, steps=4),
    Log(level="INFO", code="a.b", message="text", payload={"a": [1, None]}),
    Want(item_index=3),
    Preview(item_index=3, step=2, steps=4, width=128, height=96),
    ARTIFACT,
    Result(items=2, allocator={"allocator_peak_bytes": 5}),
    Failure(reason="oom", message="text", details={"item_index": 1}),
]
TO_RUNNER: list[ToRunner] = [
    Go(spec=SPEC, dies_at=50.0),
    Go(spec=UPSCALE, dies_at=50.0),
    Lease(dies_at=1.5),
    Cancel(),
    Show(),
    Input(item_index=3, sha256="0" * 64),
]
GOLDEN = Path(__file__).parents[1] / "golden/messages"


def names() -> Iterator[tuple[str, FromRunner | ToRunner]]:
    """Each message with the name of its golden file."""
    seen: Counter[str] = Counter()
    for message in [*FROM_RUNNER, *TO_RUNNER]:
        seen[message.type] += 1
        number = seen[message.type]
        yield message.type if number == 1 else f"{message.type}_{number}", message


def over_the_wire(message: FromRunner | ToRunner) -> dict[str, Any]:
    (frame,) = FrameDecoder().feed(encode(message.model_dump()))
    return frame.header


@pytest.mark.parametrize(("name", "message"), list(names()), ids=lambda value: str(value)[:20])
def test_message_is_written_as_its_golden_file_has_it(
    name: str, message: FromRunner | ToRunner
) -> None:
    """A runner may be another process image one day: what goes over the wire changes knowingly."""
    assert over_the_wire(message) == json.loads((GOLDEN / f"{name}.json").read_text())


def test_there_is_no_golden_file_of_a_message_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {name for name, _ in names()}


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": []},
        {"inputs": [{**UPSCALE.inputs[0].model_dump(), "item_index": 1}]},
        {"inputs": [UPSCALE.inputs[0].model_dump()] * 2},
        {"model": {"id": "m"}},
        {"params": SPEC.params.model_dump()},
        {"type": "generate"},
        {"type": "paint"},
    ],
)
def test_a_spec_of_one_type_with_the_parts_of_another_is_refused(changes: dict[str, Any]) -> None:
    header = Go(spec=UPSCALE, dies_at=50.0).model_dump()
    with pytest.raises(FrameError):
        parse_to_runner(header | {"spec": header["spec"] | changes})


@pytest.mark.parametrize("message", FROM_RUNNER, ids=lambda m: m.type)
def test_runner_message_survives_the_wire(message: FromRunner) -> None:
    assert parse_from_runner(over_the_wire(message)) == message


@pytest.mark.parametrize("message", TO_RUNNER, ids=lambda m: m.type)
def test_worker_message_survives_the_wire(message: ToRunner) -> None:
    assert parse_to_runner(over_the_wire(message)) == message


@pytest.mark.parametrize("message", FROM_RUNNER, ids=lambda m: m.type)
def test_unknown_field_is_refused(message: FromRunner) -> None:
    with pytest.raises(FrameError, match="surprise"):
        parse_from_runner(message.model_dump() | {"surprise": 1})


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"type": "nonsense"},
        {"type": ["ready"]},
        {"type": "go", "dies_at": 1.0},
        {"type": "ready", "interface": 3, "pid": "1", "versions": {}},
        {"type": "progress", "stage": "sampling", "step": -1, "steps": 1},
        {"type": "progress", "stage": "sampling", "step": 0, "steps": 0},
        {"type": "progress", "stage": "upload", "step": 0, "steps": 1},
        {"type": "progress", "stage": "load", "step": True, "steps": 1},
        {"type": "log", "level": "INFO", "code": "a", "message": "a" * 4097},
        {"type": "want", "item_index": -1},
        {"type": "want"},
        {"type": "want", "item_index": 100},
        {"type": "log", "level": "INFO", "code": "a", "message": "a", "item_index": 2**31},
        {"type": "progress", "stage": "load", "step": 0, "steps": 2**31},
        {"type": "result", "items": 1, "allocator": {"allocator_peak_bytes": 10**400}},
        {"type": "result", "items": 1, "allocator": {"allocator_peak_bytes": -1}},
        {"type": "input", "item_index": 0, "sha256": "0" * 64},
        {"type": "result", "items": -1},
        {"type": "failure", "reason": "timeout", "message": "not for a runner to say"},
        {"type": "failure", "reason": "oom", "message": "\ud800"},
        ARTIFACT.model_dump() | {"seed": MAX_SEED},
        ARTIFACT.model_dump() | {"sha256": "0" * 63 + "\n"},
        ARTIFACT.model_dump() | {"format": "gif"},
        ARTIFACT.model_dump() | {"width": 0},
        ARTIFACT.model_dump() | {"item_index": None},
    ],
)
def test_message_out_of_bounds_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        parse_from_runner(header)


def test_runner_cannot_speak_for_the_worker_nor_the_other_way_round() -> None:
    for mine in FROM_RUNNER:
        with pytest.raises(FrameError):
            parse_to_runner(mine.model_dump())
    for theirs in TO_RUNNER:
        with pytest.raises(FrameError):
            parse_from_runner(theirs.model_dump())


def test_refusal_names_the_field_and_keeps_its_value_to_itself() -> None:
    with pytest.raises(FrameError) as caught:
        parse_from_runner({"type": "result", "items": "hunter2"})
    assert "items" in str(caught.value)
    assert "hunter2" not in str(caught.value)
