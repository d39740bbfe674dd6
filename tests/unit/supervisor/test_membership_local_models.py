"""A worker reports a model only where it has what running it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.model_rows import model_row

from cli.models.install import bundled_models
from shared.errors import ModelUnavailable
from shared.models.verify import read_model
from supervisor.membership import local_models


@pytest.mark.parametrize("folder", bundled_models(), ids=lambda folder: folder.parent.name)
def test_a_network_counts_only_where_its_library_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = read_model(folder)
    row = model_row(
        kind=descriptor.kind,
        name=descriptor.name,
        version=descriptor.version,
        checkpoint_sha256=descriptor.checkpoint_sha256,
        descriptor=descriptor.model_dump(mode="json"),
    )
    local_models.check_row(folder, row)
    monkeypatch.setattr(local_models, "can_run_networks", lambda: False)
    if descriptor.layout != "network":
        local_models.check_row(folder, row)
        return
    with pytest.raises(ModelUnavailable, match=r"spandrel.*dreamforge\[gan\]"):
        local_models.check_row(folder, row)
