"""Reports why device memory did not suffice: numbers, who held it, what would help (OR-001 AC-3).

A step is never tried again at another size: that would not be what the user ordered.
"""

from collections.abc import Iterable
from typing import Any

from shared.errors import InvalidInput
from shared.presets import Preset
from shared.protocol.messages import Offload
from shared.states import Reason
from shared.step_store import Claim
from supervisor.devices.device import Reading

# Each needs less of the device than the one before, and more time.
_NEXT_OFFLOAD: dict[str, Offload] = {"none": "model", "model": "group", "group": "sequential"}
ABOUT_MEMORY = frozenset({Reason.OOM, Reason.HOST_OOM, Reason.INSUFFICIENT_VRAM})


def memory_report(
    claim: Claim, before: Reading | None, peak_bytes: int, candidates: Iterable[Preset]
) -> dict[str, Any]:
    """Details for the job's error; bytes. `holders` are the device's other users at the start.

    A smaller preset is looked for among `candidates`.
    """
    numbers: dict[str, Any] = {
        "preset": f"{claim.preset.get('name')}@{claim.preset.get('version')}",
        "need_bytes": claim.vram_bytes,
        "peak_bytes": peak_bytes,
        "recommendation": recommendation(claim, candidates),
    }
    if (factor := _factor(claim)) != 1:
        numbers["vram_factor"] = factor
    if before is not None:
        numbers |= {
            "total_bytes": before.total_bytes,
            "available_bytes": before.free_bytes,
            "holders": {str(pid): size for pid, size in before.holders.items()},
        }
    return numbers


def recommendation(claim: Claim, candidates: Iterable[Preset]) -> str:
    """The next smaller preset by name, fewer pixels, offload: whatever applies."""
    preset = claim.preset
    ways = []
    if (smaller := next_smaller(claim, candidates)) is not None:
        ways.append(f"preset {smaller.name!r}")
    width, height = claim.params.get("width"), claim.params.get("height")
    ways.append(f"fewer pixels than {width}x{height}" if width and height else "fewer pixels")
    further = _NEXT_OFFLOAD.get(preset.get("offload", "none"))
    if preset.get("device") == "cuda" and further is not None:
        ways.append(f"a preset with offload {further!r}")
    return "try " + ", or ".join(ways)


def next_smaller(claim: Claim, candidates: Iterable[Preset]) -> Preset | None:
    """The largest preset of the same device that needs less for this kind of model and size."""
    if claim.model is None:
        return None
    pixels = claim.params.get("width", 0) * claim.params.get("height", 0)
    smaller = []
    for preset in candidates:
        try:
            need = preset.budget_for(
                claim.model.kind, pixels, claim.model.parts, vram_factor=_factor(claim)
            ).vram_bytes
        except InvalidInput:
            continue
        if preset.device == claim.preset.get("device") and need < claim.vram_bytes:
            smaller.append((need, preset))
    return max(smaller, key=lambda pair: pair[0])[1] if smaller else None


def _factor(claim: Claim) -> float:
    """The operator's correction of the estimate when the job was created (`DF_VRAM_FACTOR`)."""
    factor = claim.preset.get("vram_factor", 1.0)
    return float(factor) if isinstance(factor, int | float) else 1.0
