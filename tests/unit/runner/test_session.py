"""What a preset switches in torch before a step runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from runner.session import KERNELS, configure_torch
from shared.protocol.messages import Attention, PresetSpec

CUDA: Any = torch.backends.cuda  # its switches have no types
SWITCHES = {
    "flash": (CUDA.flash_sdp_enabled, CUDA.enable_flash_sdp),
    "efficient": (CUDA.mem_efficient_sdp_enabled, CUDA.enable_mem_efficient_sdp),
    "math": (CUDA.math_sdp_enabled, CUDA.enable_math_sdp),
    "cudnn": (CUDA.cudnn_sdp_enabled, CUDA.enable_cudnn_sdp),
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads, before = torch.get_num_threads(), {name: on() for name, (on, _) in SWITCHES.items()}
    yield
    torch.set_num_threads(threads)
    for name, (_, switch) in SWITCHES.items():
        switch(before[name])


@pytest.mark.parametrize(
    ("attention", "on"),
    [
        ("auto", {"flash", "efficient", "math", "cudnn"}),
        ("flash", {"flash", "efficient", "math"}),
        ("efficient", {"efficient", "math"}),
        ("math", {"math"}),
    ],
)
def test_a_kernel_has_those_behind_it_that_can_do_what_it_cannot(
    attention: Attention, on: set[str]
) -> None:
    configure_torch(
        PresetSpec(
            name="x", version=1, device="cpu", dtype="float32", threads=1, attention=attention
        )
    )
    assert {name for name, (is_on, _) in SWITCHES.items() if is_on()} == on
    assert torch.get_num_threads() == 1
    # As a VAE's: one head of 512, which flash does not take on a GPU.
    query = torch.rand(1, 1, 16, 512)
    attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert attended.shape == query.shape


def test_there_is_always_a_kernel_that_can_do_everything() -> None:
    assert all("math" in kernels for kernels in KERNELS.values())
