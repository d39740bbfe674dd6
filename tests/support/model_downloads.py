"""A checkpoint for tests of `model download` and `import`, and checks of what they installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.civitai import MODEL, VERSION, Site
from tests.support.headers import CHECKPOINTS, of_shapes

from shared.models.descriptor import ModelDescriptor
from shared.models.verify import read_model, verify_model

Command = Callable[..., int]
REF = f"civitai:{MODEL}"
KEY = f"Dream-Shaper-v8@{VERSION}"
SD1 = of_shapes(CHECKPOINTS["sd1"])
LARGER = of_shapes({**CHECKPOINTS["sd1"], "more": (4000,)})


def installed(root: Path, key: str = KEY, kind: str = "sd") -> ModelDescriptor:
    place = root / kind / key
    descriptor = read_model(place)
    verify_model(place, descriptor)
    assert not [path.name for path in (root / ".staging").iterdir()]
    return descriptor


def nothing_installed(root: Path) -> bool:
    return not list(root.glob("[!.]*/*@*"))


def file_requests(site: Site) -> list[tuple[str, str, str, str | None]]:
    return [seen for seen in site.seen if not seen[1].startswith("/api/v1/")]
