"""Whether CUDA works in a runner's sandbox: what `DF_SANDBOX=auto` waits for on GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.linux.sandbox import Sandbox
from supervisor.processes.containment import read_kernel

NO_DRIVER = not Path("/proc/driver/nvidia/version").exists()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NO_DRIVER, reason="no NVIDIA driver on this machine"),
]

CODE = """
import os
from shared.linux import child
from shared.linux.sandbox import sandbox_of
child.refuse_privileges()
child.bound_resources()
sandbox = sandbox_of(os.environ)
sandbox.enter()
import torch
sandbox.narrow([])
torch.set_num_threads(1)
ones = torch.ones(1024, 1024, device="cuda", dtype=torch.float16)
mean = (ones @ ones).float().mean().item()
pinned = torch.ones(1 << 20, pin_memory=True).to("cuda", non_blocking=True).sum().item()
kernel = torch.nn.functional.conv2d(ones[None, None], ones[None, None, :3, :3]).mean().item()
print(mean, pinned, kernel)
"""


@pytest.mark.skipif(read_kernel().landlock_abi == 0, reason="a kernel without Landlock")
def test_cuda_computes_in_a_sandbox(tmp_path: Path) -> None:
    kernel = read_kernel()
    print(f"sandbox: {kernel}; lacking: {kernel.lacking()}")
    sandbox = Sandbox(
        landlock_abi=kernel.landlock_abi, seccomp=kernel.seccomp, models=str(tmp_path), gpu=True
    )
    environment = sandbox.to_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["1024.0", "1048576.0", "9.0"]
