"""Read `deploy/k3s-scale`: its objects, its patches, and what KEDA asks PostgreSQL."""

from __future__ import annotations

from typing import Any

import yaml
from tests.support.deployment import ROOT

FOLDER = ROOT / "deploy/k3s-scale"


def documents(name: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all((FOLDER / name).read_text()) if found]


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
