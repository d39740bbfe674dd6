"""What a user reads when device memory did not suffice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from shared.models.descriptor import PartSize
from shared.presets import preset, presets
from shared.step_store import Claim, PinnedModel
from supervisor.devices.device import Reading
from supervisor.outcomes.memory_report import memory_report, next_smaller, recommendation

GIB = 1 << 30
ALL = presets().values()
PIXELS = 1024 * 768  # of the claim below


def claim(name: str = "gpu-24gb", vram_bytes: int = 12 * GIB, **preset_changes: Any) -> Claim:
    pinned = preset(name).budget_for("sdxl").pinned | preset_changes
    return Claim(
        step_id=uuid4(), job_id=uuid4(), user="default", epoch=1, lease_owner=uuid4(),
        attempt=0, losses=0,
        cancel_requested=False, vram_waited_s=0.0, name="generate", type="generate",
        params={"width": 1024, "height": 768}, count=1,
        preset=pinned, vram_bytes=vram_bytes, timeout_s=1.0,
        model=PinnedModel(
            id=uuid4(), name="m", version="1", kind="sdxl", checkpoint_sha256="0" * 64
        ),
        correlation_id="",
    )  # fmt: skip


def test_a_corrected_estimate_is_named_and_compared_with_corrected_ones() -> None:
    corrected = claim(vram_factor=0.5)
    assert memory_report(corrected, None, 0, ALL)["vram_factor"] == 0.5
    assert "vram_factor" not in memory_report(claim(), None, 0, ALL)
    need = preset("gpu-24gb").budget_for("sdxl", PIXELS).vram_bytes
    # Its own preset needs as much as the request did once both are corrected: it is no smaller one.
    own = [preset("gpu-24gb")]
    assert next_smaller(claim(vram_bytes=need, vram_factor=1.0), own) is None
    assert next_smaller(claim(vram_bytes=need // 2, vram_factor=0.5), own) is None
    assert next_smaller(claim(vram_bytes=need // 2 + 9, vram_factor=0.5), own) is own[0]


def test_a_preset_that_could_not_hold_this_checkpoint_is_not_the_next_smaller() -> None:
    usual = claim(vram_bytes=1 << 60)
    assert usual.model is not None
    heavy = replace(usual.model, parts={"unet": PartSize(numbers=10**10, largest=10**8)})
    smaller = next_smaller(replace(usual, vram_bytes=22 * 10**9, model=heavy), ALL)
    assert smaller is not None
    assert smaller.budget_for("sdxl").spec.offload != "none", (
        "twenty gigabytes of weights at once are no less"
    )


def test_the_numbers_say_what_was_needed_there_and_held_by_whom() -> None:
    before = Reading(
        total_bytes=24 * GIB, used_bytes=20 * GIB, free_bytes=4 * GIB, holders={77: 20 * GIB}
    )
    report = memory_report(claim(), before, 5, ALL)
    assert report["preset"] == f"gpu-24gb@{preset('gpu-24gb').version}"
    assert (report["need_bytes"], report["peak_bytes"]) == (12 * GIB, 5)
    assert (report["total_bytes"], report["available_bytes"]) == (24 * GIB, 4 * GIB)
    assert report["holders"] == {"77": 20 * GIB}


def test_without_a_reading_there_is_still_advice() -> None:
    assert "available_bytes" not in memory_report(claim(), None, 0, ALL)
    assert memory_report(claim(), None, 0, ALL)["recommendation"]


def test_the_next_smaller_preset_is_of_the_same_device_and_needs_less() -> None:
    smaller = next_smaller(claim(vram_bytes=1 << 60), ALL)
    assert smaller is not None
    assert smaller.device == "cuda"
    largest = max(p.budget_for("sdxl", PIXELS).vram_bytes for p in ALL if p.device == "cuda")
    assert smaller.budget_for("sdxl", PIXELS).vram_bytes == largest
    assert f"preset {smaller.name!r}" in recommendation(claim(vram_bytes=1 << 60), ALL)
    assert next_smaller(claim(vram_bytes=0), ALL) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "offload 'model'"),
        ({"offload": "model"}, "offload 'group'"),
        ({"offload": "group"}, "offload 'sequential'"),
    ],
)
def test_offload_goes_one_level_further(changes: dict[str, Any], message: str) -> None:
    assert message in recommendation(claim(**changes), ALL)
    assert "fewer pixels than 1024x768" in recommendation(claim(**changes), ALL)


def test_nothing_is_offloaded_from_a_cpu() -> None:
    assert "offload" not in recommendation(claim("cpu"), ALL)
    assert "offload" not in recommendation(claim(offload="sequential"), ALL)
