"""The imports of a runner, in a process that must keep one thread and open no device.

- A pool of OpenMP or of a BLAS that begins in the template would be missing in a fork, which would
  wait for it for ever. A runner sets its preset's number of threads itself.
- tqdm starts a thread that watches its bars.
- torch asks NVML, not CUDA, whether there is a GPU: CUDA cannot be used after a fork.
"""

# ruff: noqa: E402 - the environment is read while torch is imported
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

torch.set_num_threads(1)

from tqdm.std import tqdm  # type: ignore[import-untyped]

tqdm.monitor_interval = 0

from runner.job_types.host_models import hold
from runner.session import installed_versions  # with all that a runner imports

installed_versions()  # read once for all runners

__all__ = ["hold"]
