"""Ask what a file of weights is that may be a network of an upscaler.

Only a runner has the libraries that recognise one, so the question goes to a process of its own
(`runner.network_check`), which has a runner's sandbox.
"""

import os
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from cli.terminal.output import print_note
from shared.errors import ModelUnavailable
from shared.linux.child import keeps
from shared.models.networks import LIBRARY, Network, NetworkAnswer, can_run_networks

# A network of a gigabyte is read in seconds; importing torch from a cold disk takes longer.
TIMEOUT_S = 300.0


def describe_network(file: Path) -> Network | None:
    """The network in a safetensors file; None for a file that is none.

    Raises `ModelUnavailable` for a network that is of no use here, or that cannot be looked at.
    """
    command = [sys.executable, "-m", "runner.network_check", str(file.absolute())]
    # No secret of the command's environment; the same places to import from.
    environ = {name: value for name, value in os.environ.items() if keeps(name)}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        ran = subprocess.run(  # noqa: S603 - argv is ours
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environ,
        )
        answer = NetworkAnswer.model_validate_json((ran.stdout.splitlines() or [""])[-1])
    except subprocess.TimeoutExpired:
        raise _unknown(file, f"took more than {TIMEOUT_S:g} s") from None
    except ValidationError:
        last = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise _unknown(file, f"ended with {ran.returncode}: {last[:200]}") from None
    if answer.network is None and answer.recognised:
        raise ModelUnavailable(answer.refused, file=file.name)
    return answer.network


def refuse_broken_esrgan(file: Path, scale: int | None) -> None:
    """Load it once: some names and shapes said that it is an ESRGAN of this scale, not that the
    rest of it is there. Raises `ModelUnavailable`."""
    if not can_run_networks():
        print_note(f"the network was not loaded: this installation has no {LIBRARY}")
        return
    network = describe_network(file)
    if network is None or network.scale != scale:
        found = "no network" if network is None else f"one of scale {network.scale}"
        raise ModelUnavailable(
            f"{file.name}: an ESRGAN of scale {scale} by its ends, and {found} by all its tensors",
            file=file.name,
        )


def _unknown(file: Path, what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{file.name}: may be an upscaler; the process that looked at it {what}", file=file.name
    )
