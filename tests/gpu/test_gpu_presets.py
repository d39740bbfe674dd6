"""Presets on a real GPU: memory of models of real size, dtypes, offload modes, the same bytes.

Weights are random, since memory and speed do not ask what they say; the demo model's are not, so it
is held to its golden pictures. `make test-gpu` runs this; besides what the reclaim tests need it
takes diffusers, transformers, accelerate, safetensors, pillow and numpy, and 10 GB of disk. Each
test prints what it measured: `docs/gpu-evidence.md` keeps it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.golden import (
    CPU,
    MODEL,
    PROMPTS,
    TOLERANCE_DB,
    draw,
    golden,
    levels,
    psnr_db,
)
from tests.support.real_sizes import build

from cli.presets.measure import measure_model
from runner.diffusion.pipelines import load
from shared.presets import preset
from shared.protocol.messages import Dtype, Offload

NO_DRIVER = not Path("/proc/driver/nvidia/version").exists()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(NO_DRIVER, reason="no NVIDIA driver on this machine"),
]

# Of an upscaler, what it is given.
SIZES = {
    "sd": [(512, 512), (768, 768), (1024, 1024)],
    "sdxl": [(768, 768), (1024, 1024)],
    "sd_upscale": [(128, 128), (512, 384)],
    "sd_latent_upscale": [(256, 256), (768, 768)],
}
# In a process of its own each time: what one has loaded, chosen or cached is not there in the next.
DRAW = """
import hashlib
from tests.support.golden import CPU, MODEL, PROMPTS, draw
from runner.diffusion.pipelines import load
spec = CPU.model_copy(update={"device": "cuda", "dtype": "float16"})
loaded = load("sd", MODEL, spec, None)
for prompt in PROMPTS:
    print(hashlib.sha256(draw(loaded, prompt).tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("real")
    built: set[str] = set()

    def get(kind: str) -> Path:
        if kind not in built:
            build(kind, root / kind)
            torch.cuda.empty_cache()
            built.add(kind)
        return root / kind

    return get


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sd", "gpu-8gb"),
        ("sdxl", "gpu-8gb"),
        ("sdxl", "gpu-16gb"),
        ("sdxl", "gpu-80gb"),
        ("sd_upscale", "gpu-8gb"),
        ("sd_upscale", "gpu-80gb"),  # the same without tiles
        ("sd_latent_upscale", "gpu-16gb"),
    ],
)
def test_a_model_of_real_size_stays_within_what_its_preset_says(
    kind: str, name: str, folder: Callable[[str], Path]
) -> None:
    asked = preset(name)
    _, peaks, need = measure_model(folder(kind), asked, SIZES[kind])
    for peak in peaks:
        stated_bytes = asked.budget_for(kind, peak.pixels).vram_bytes
        print(
            f"\n{kind} {name} {peak.pixels} pixels: peak={peak.peak_bytes >> 20} MiB"
            f" preset={stated_bytes >> 20} MiB"
        )
        assert peak.peak_bytes <= stated_bytes
    print(f"{kind} {name}: base_bytes={need.base_bytes} bytes_per_pixel={need.bytes_per_pixel}")


def test_offloading_needs_less_in_the_promised_order(folder: Callable[[str], Path]) -> None:
    """On one model, one size: all of it, one part at a time, one layer at a time."""
    peaks = {}
    for offload in ("none", "model", "group", "sequential"):
        sdxl = preset("gpu-80gb").kinds["sdxl"].model_copy(update={"offload": offload})
        asked = preset("gpu-80gb").model_copy(update={"kinds": {"sdxl": sdxl}, "timeout_s": 280.0})
        _, (small, _large), _ = measure_model(folder("sdxl"), asked, [(512, 512), (768, 768)])
        peaks[offload] = small.peak_bytes
        print(f"\nsdxl offload={offload} 512x512: peak={small.peak_bytes >> 20} MiB")
    assert peaks["none"] > peaks["model"] > peaks["group"] > peaks["sequential"]


@pytest.mark.parametrize("offload", ["none", "model", "group", "sequential"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_golden_pictures_come_out_in_every_dtype_and_offload_mode(
    dtype: Dtype, offload: Offload
) -> None:
    spec = CPU.model_copy(update={"device": "cuda", "dtype": dtype, "offload": offload})
    loaded = load("sd", MODEL, spec, None)
    for prompt in PROMPTS:
        made = psnr_db(levels(draw(loaded, prompt)), golden(prompt))
        print(f"\n{prompt} {dtype} {offload}: {made:.1f} dB")
        assert made > TOLERANCE_DB["cuda", dtype]


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_VERBOSITY": "error"}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", DRAW], check=True, env=env, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert len(set(first.split())) == len(PROMPTS)
