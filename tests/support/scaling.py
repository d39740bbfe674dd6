"""Read `deploy/k3s-scale`: its objects, its patches, and what KEDA asks PostgreSQL."""

from __future__ import annotations

from typing import Any

from tests.support import deployment
from tests.support.deployment import ROOT

FOLDER = ROOT / "deploy/k3s-scale"


def documents(name: str) -> list[dict[str, Any]]:
    return deployment.documents((FOLDER / name).read_text(encoding="utf-8"))


def kustomization() -> dict[str, Any]:
    (found,) = documents("kustomization.yaml")
    return found


def objects() -> dict[str, dict[str, Any]]:
    """What the overlay adds, by `kind name`."""
    names = [name for name in kustomization()["resources"] if name.endswith(".yaml")]
    found = [each for name in names for each in documents(name)]
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found}


def trigger() -> dict[str, Any]:
    """The one thing that KEDA looks at."""
    (found,) = objects()["ScaledObject worker"]["spec"]["triggers"]
    assert isinstance(found, dict)
    return found


def query() -> str:
    return str(trigger()["metadata"]["query"])
