"""What the kernel keeps from this worker's runners: by `DF_SANDBOX`, device and kernel.

`auto` takes what the kernel has, and says what it lacks. On a GPU it is off: no card has shown yet
that CUDA works under it (docs/gpu-evidence.md). `require` refuses to start where anything is
lacking, and holds GPU runners too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from shared.linux import landlock, seccomp
from shared.linux.sandbox import NO_SANDBOX, Sandbox

_OFF = "off by DF_SANDBOX"
_NO_EVIDENCE = "off on GPUs, until a card has shown that CUDA works under it; DF_SANDBOX=require"


class NotContained(Exception):
    """`DF_SANDBOX=require` asks for more than this kernel has; the message says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What this kernel can keep from a process."""

    landlock_abi: int
    seccomp: bool

    def lacking(self) -> tuple[str, ...]:
        """What it cannot refuse, in words; empty when it can refuse all."""
        lacking = landlock.lacking(self.landlock_abi)
        return lacking if self.seccomp else (*lacking, "system calls (seccomp)")

    def __str__(self) -> str:
        parts = [f"Landlock ABI {self.landlock_abi}"] if self.landlock_abi else []
        return ", ".join(parts + ["seccomp"] * self.seccomp) or "nothing"


def read_kernel() -> Kernel:
    return Kernel(landlock_abi=landlock.abi(), seccomp=seccomp.available())


@dataclass(frozen=True, kw_only=True, slots=True)
class Containment:
    """How the runners of each kind of device are held. `off` says why a kind is not."""

    kernel: Kernel
    models_dir: Path
    off: Mapping[str, str]

    def environment(self, kind: str) -> dict[str, str]:
        """What a runner for this kind of device is started with."""
        if kind in self.off:
            return NO_SANDBOX
        return self._sandbox(gpu=kind == "cuda").to_environment()

    def template_environment(self, kinds: Iterable[str]) -> dict[str, str]:
        """The same for a template that forks runners for these kinds, which inherit its bounds."""
        kinds = set(kinds)
        if kinds & self.off.keys():
            return NO_SANDBOX
        return self._sandbox(gpu="cuda" in kinds).to_environment()

    def helper_environment(self) -> dict[str, str]:
        """The same for helpers that ask a GPU's driver: no model, no server, no write."""
        if "cuda" in self.off:
            return NO_SANDBOX
        return replace(self._sandbox(gpu=True), models="").to_environment()

    def status(self, kind: str) -> dict[str, object]:
        """As `/readyz` shows it."""
        if kind in self.off:
            return {"by": None, "lacks": [self.off[kind]]}
        return {"by": str(self.kernel), "lacks": list(self.kernel.lacking())}

    def describe(self, kind: str) -> str:
        """One line for the log."""
        if kind in self.off:
            return f"runners on {kind} are not contained: {self.off[kind]}"
        lacking = ", ".join(self.kernel.lacking())
        return f"runners on {kind} are contained by {self.kernel}; not refused: {lacking or '-'}"

    def _sandbox(self, *, gpu: bool) -> Sandbox:
        return Sandbox(
            landlock_abi=self.kernel.landlock_abi,
            seccomp=self.kernel.seccomp,
            models=str(self.models_dir.absolute()),
            gpu=gpu,
        )


def decide(mode: str, models_dir: Path, kernel: Kernel) -> Containment:
    """Raises `NotContained` where `require` asks for more than the kernel has."""
    lacking = kernel.lacking()
    if mode == "require" and lacking:
        raise NotContained(
            f"DF_SANDBOX=require, and this kernel cannot refuse a runner {', '.join(lacking)}; "
            "use a newer kernel, or DF_SANDBOX=auto"
        )
    off: dict[str, str] = {}
    if mode == "off":
        off = dict.fromkeys(("cpu", "cuda"), _OFF)
    elif mode == "auto":
        off = {"cuda": _NO_EVIDENCE}
    return Containment(kernel=kernel, models_dir=models_dir, off=off)
