"""The models that every side draws with, made from the demo model in a temporary folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

from benchmarks.isolation.processes import ROOT
from benchmarks.isolation.workload import COPY, DEEP, DEEP_COPY, DEMO, MOST_SIDE, MOST_STEPS

from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import ModelDescriptor, Source
from shared.models.verify import read_model, write_descriptor

MODEL = ROOT / "models/sd" / DEMO


def make_models(folder: Path) -> dict[str, Path]:
    """All models by id: the demo model itself, and the others, written to `folder`."""
    deep = _derive(MODEL, DEEP, folder, _replace_unet)
    return {
        DEMO: MODEL,
        COPY: _derive(MODEL, COPY, folder),
        DEEP: deep,
        DEEP_COPY: _derive(deep, DEEP_COPY, folder),
    }


def _derive(
    source: Path, model: str, folder: Path, change: Callable[[Path], None] | None = None
) -> Path:
    """A copy under another name, with limits of its own, after `change` of its files."""
    place = folder / model
    copytree(source, place)
    if change is not None:
        change(place)
    descriptor = read_model(source)
    assert isinstance(descriptor, ModelDescriptor)
    limits = {
        name: getattr(descriptor.limits, name).model_copy(update={"max": most})
        for name, most in (("steps", MOST_STEPS), ("width", MOST_SIDE), ("height", MOST_SIDE))
    }
    name, _, version = model.partition("@")
    described = describe_folder(
        place,
        DescriptorInput(
            name=name,
            version=version,
            source=Source(uri="local"),
            defaults=descriptor.defaults,
            limits=descriptor.limits.model_copy(update=limits),
        ),
    )
    write_descriptor(place, described)
    return place


def _replace_unet(folder: Path) -> None:
    """In a process of its own, so that torch is not in the one that measures."""
    command = [sys.executable, "-m", "benchmarks.isolation.deep_unet", str(folder / "unet")]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 - our own module
