"""What a user is told when device memory did not suffice: numbers, who held it, what would help.

OR-001 AC-3. Nothing is ever tried again at another size: that would not be what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shared.errors import InvalidInput
from shared.presets import Preset
from shared.states import Reason
from shared.step_store import Claim
from supervisor.devices.device import Reading

ABOUT_MEMORY = frozenset({Reason.OOM, Reason.HOST_OOM, Reason.INSUFFICIENT_VRAM})


def memory_report(
    claim: Claim, before: Reading | None, peak_bytes: int, known: Iterable[Preset]
) -> dict[str, Any]:
    """Details for the job's error; bytes. `holders` are the device's other users at the start.

    `known` are the presets among which a smaller one is looked for.
    """
    numbers: dict[str, Any] = {
        "preset": f"{claim.preset.get('name')}@{claim.preset.get('version')}",
        "need_bytes": claim.vram_bytes,
        "peak_bytes": peak_bytes,
        "recommendation": recommendation(claim, known),
    }
    if (factor := _factor(claim)) != 1:
        numbers["vram_factor"] = factor
    if before is not None:
        numbers |= {
            "total_bytes": before.total_bytes,
            "available_bytes": before.free_bytes,
            "holders": {str(pid): held for pid, held in before.holders.items()},
        }
    return numbers


def recommendation(claim: Claim, known: Iterable[Preset]) -> str:
    """The next smaller preset by name, fewer pixels, offload: whatever there is."""
    asked = claim.preset
    ways = []
    if (smaller := next_smaller(claim, known)) is not None:
        ways.append(f"preset {smaller.name!r}")
    width, height = claim.params.get("width"), claim.params.get("height")
    ways.append(f"fewer pixels than {width}x{height}" if width and height else "fewer pixels")
    if asked.get("device") == "cuda" and asked.get("offload", "none") != "sequential":
        further = "model" if asked.get("offload", "none") == "none" else "sequential"
        ways.append(f"a preset with offload {further!r}")
    return "try " + ", or ".join(ways)


def next_smaller(claim: Claim, known: Iterable[Preset]) -> Preset | None:
    """The largest preset of the same device that needs less for this kind of model and size."""
    if claim.model is None:
        return None
    pixels = claim.params.get("width", 0) * claim.params.get("height", 0)
    fitting = []
    for preset in known:
        try:
            need = preset.budget_for(
                claim.model.kind, pixels, claim.model.parts, vram_factor=_factor(claim)
            ).vram_bytes
        except InvalidInput:
            continue
        if preset.device == claim.preset.get("device") and need < claim.vram_bytes:
            fitting.append((need, preset))
    return max(fitting, key=lambda found: found[0])[1] if fitting else None


def _factor(claim: Claim) -> float:
    """By what the operator had the estimate corrected when the job was made (`DF_VRAM_FACTOR`)."""
    return float(claim.preset.get("vram_factor", 1.0))
