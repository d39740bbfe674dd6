"""The memory figures of the shipped presets rest on counted weights, not on memory of them."""

from __future__ import annotations

import pytest
from tests.support.real_sizes import REAL, Count, count

from shared.models.weights import size_of
from shared.presets import Preset, presets

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Context of CUDA and workspaces of its libraries; of a CPU's process, torch and Python.
OVERHEAD_BYTES = 800_000_000
# A decoder that stays while other parts take turns.
DECODER_BYTES = 500_000_000
# What the figures may be above the sum: rounding, and activations that do not grow with the size.
ROOM = 1.15

# Bytes per pixel of a decode at real widths, measured on a CPU: the VAE of the x4 pipeline in
# float32, that of Stable Diffusion in half precision.
MEASURED_DECODE = {"float32": 5400, "float16": 2200}

CARDS = [preset for preset in presets().values() if preset.device == "cuda"]


@pytest.fixture(scope="module")
def counts() -> dict[str, Count]:
    return {name: count(name) for name in REAL}


def architecture(preset: Preset, kind: str) -> str:
    """Which checkpoint of a kind the class of cards is meant for."""
    if kind == "sd3":
        large = preset.memory_bytes >= 24 * 10**9 or preset.name == "gpu-16gb-fp8"
        return "sd3-large" if large else "sd3-medium"
    return kind


def resident(preset: Preset, kind: str, found: Count) -> int:
    """Bytes on the device at once."""
    spec = preset.budget_for(kind).spec
    numbers = {
        "none": found.total,
        "model": found.largest_part,
        "group": found.in_groups,
        "sequential": found.largest_layer,
    }[spec.offload]
    if spec.storage_dtype is not None and spec.offload == "model":
        assert sum(found.transformer.values()) == found.largest_part
        saved = found.in_8_bits * (BYTES[spec.dtype] - 1)
        return numbers * BYTES[spec.dtype] - saved + OVERHEAD_BYTES
    decoder_bytes = DECODER_BYTES if spec.offload == "group" else 0
    return numbers * BYTES[spec.dtype] + decoder_bytes + OVERHEAD_BYTES


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "sd_upscale", "sd_latent_upscale"])
@pytest.mark.parametrize("preset", CARDS, ids=lambda preset: preset.name)
def test_a_card_s_figure_covers_the_weights_that_are_there_at_once(
    preset: Preset, kind: str, counts: dict[str, Count]
) -> None:
    need = resident(preset, kind, counts[architecture(preset, kind)])
    base = preset.kinds[kind].base_bytes  # type: ignore[index]
    assert base >= 0.99 * need, f"{need} bytes of weights and overhead"
    assert base <= ROOM * need


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "auto"])
@pytest.mark.parametrize("preset", CARDS, ids=lambda preset: preset.name)
def test_no_card_goes_layer_by_layer(preset: Preset, kind: str) -> None:
    assert preset.budget_for(kind).spec.offload != "sequential"


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "sd_upscale", "sd_latent_upscale"])
def test_the_cpu_s_figure_covers_the_weights(kind: str, counts: dict[str, Count]) -> None:
    cpu = presets()["cpu"]
    need = resident(cpu, kind, counts["sd3-medium" if kind == "sd3" else kind])
    assert 0.99 * need <= cpu.kinds[kind].base_bytes <= ROOM * need  # type: ignore[index]


@pytest.mark.parametrize("name", ["flux", "sd3-medium", "sd3-large"])
def test_what_stays_precise_is_counted_by_names_as_diffusers_decides(
    name: str, counts: dict[str, Count]
) -> None:
    size = size_of("transformer", counts[name].transformer)
    assert size.outside + 2 * size.block == pytest.approx(counts[name].in_groups, rel=0.01)
    kept = size.numbers - counts[name].in_8_bits
    assert kept <= size.precise <= 1.02 * kept


@pytest.mark.parametrize("size", [16, 24])
def test_a_preset_of_8_bits_is_that_of_its_class_but_for_transformers(size: int) -> None:
    plain, narrow = presets()[f"gpu-{size}gb"], presets()[f"gpu-{size}gb-fp8"]
    same = {"name", "version", "kinds"}
    assert plain.model_dump(exclude=same) == narrow.model_dump(exclude=same)
    for kind, need in narrow.kinds.items():
        if need.storage_dtype is None:
            assert need == plain.kinds[kind], kind


def test_the_page_names_what_was_counted(counts: dict[str, Count]) -> None:
    billions = {name: round(found.total / 1e9, 1) for name, found in counts.items()}
    assert billions == {
        "sd": 1.1,
        "sdxl": 3.5,
        "sd3-medium": 8.1,
        "sd3-large": 13.8,
        "flux": 16.9,
        "sd_upscale": 0.9,
        "sd_latent_upscale": 0.6,
    }


def test_upscaling_pipelines_decode_as_their_figures_say() -> None:
    """The x4 pipeline decodes in float32, so that it needs twice what the x2 pipeline does."""
    for card in CARDS:
        x4, x2 = card.kinds["sd_upscale"], card.kinds["sd_latent_upscale"]
        assert x4.decode_bytes_per_pixel >= MEASURED_DECODE["float32"]
        assert x2.decode_bytes_per_pixel >= MEASURED_DECODE["float16"]
