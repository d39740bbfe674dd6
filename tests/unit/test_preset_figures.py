"""The memory figures of the shipped presets rest on counted weights, not on memory of them."""

from __future__ import annotations

import pytest
from tests.support.real_sizes import Count, count

from shared.presets import Preset, presets

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Context of CUDA and workspaces of its libraries; of a CPU's process, torch and Python.
OVERHEAD_BYTES = 800_000_000
# What the figures may be above the sum: rounding, and activations that do not grow with the size.
ROOM = 1.15

CARDS = [preset for preset in presets().values() if preset.device == "cuda"]


@pytest.fixture(scope="module")
def counts() -> dict[str, Count]:
    return {name: count(name) for name in ("sd", "sdxl", "sd3-medium", "sd3-large", "flux")}


def architecture(preset: Preset, kind: str) -> str:
    """Which checkpoint of a kind the class of cards is meant for."""
    if kind == "sd3":
        return "sd3-large" if preset.memory_bytes >= 24 * 10**9 else "sd3-medium"
    return kind


def resident(preset: Preset, kind: str, found: Count) -> int:
    """Bytes on the device at once."""
    spec = preset.for_runner(kind)
    numbers = {
        "none": found.total,
        "model": found.largest_part,
        "sequential": found.largest_layer,
    }[spec.offload]
    return numbers * BYTES[spec.dtype] + OVERHEAD_BYTES


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("preset", CARDS, ids=lambda preset: preset.name)
def test_a_card_s_figure_covers_the_weights_that_are_there_at_once(
    preset: Preset, kind: str, counts: dict[str, Count]
) -> None:
    need = resident(preset, kind, counts[architecture(preset, kind)])
    base = preset.kinds[kind].base_bytes  # type: ignore[index]
    assert base >= 0.99 * need, f"{need} bytes of weights and overhead"
    if preset.for_runner(kind).offload != "sequential":
        assert base <= ROOM * need


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_the_cpu_s_figure_covers_the_weights(kind: str, counts: dict[str, Count]) -> None:
    cpu = presets()["cpu"]
    need = resident(cpu, kind, counts["sd3-medium" if kind == "sd3" else kind])
    assert 0.99 * need <= cpu.kinds[kind].base_bytes <= ROOM * need  # type: ignore[index]


def test_the_page_names_what_was_counted(counts: dict[str, Count]) -> None:
    billions = {name: round(found.total / 1e9, 1) for name, found in counts.items()}
    assert billions == {
        "sd": 1.1,
        "sdxl": 3.5,
        "sd3-medium": 8.1,
        "sd3-large": 13.8,
        "flux": 16.9,
    }
