"""What a model site leaves out of its answers, and how it says that a version is not public yet."""

from __future__ import annotations

from typing import Any

import pytest

from cli.download import civitai
from cli.download.source import Reference, ResolvedModel
from cli.errors import Failure

HASH = "ab" * 32
FILE = {
    "name": "model.safetensors",
    "hashes": {"SHA256": HASH},
    "downloadUrl": f"{civitai.DEFAULT_ENDPOINT}/api/download/models/1",
}


def resolved(monkeypatch: pytest.MonkeyPatch, *versions: dict[str, Any]) -> ResolvedModel:
    """A model of these versions, the newest first."""

    class Transfer:
        def __init__(self, **_: object) -> None: ...

        def close(self) -> None: ...

        def get_json(self, url: str, what: str) -> Any:
            return {"id": 1, "name": "m", "type": "Checkpoint", "modelVersions": list(versions)}

    monkeypatch.setattr(civitai, "Transfer", Transfer)
    return civitai.resolve(Reference(scheme="civitai", rest="1"))


def test_null_is_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = dict.fromkeys(("name", "type", "primary", "sizeKB", "hashes", "downloadUrl"))
    version = {"id": 2, "name": None, "availability": None, "earlyAccessEndsAt": None}
    older = {"id": 1, "files": None}
    model = resolved(monkeypatch, version | {"files": [FILE | {"type": None}, odd]}, older)
    assert (model.version, model.files[0].sha256) == ("2", HASH)


@pytest.mark.parametrize(
    ("newest", "taken"),
    [
        ({"earlyAccessEndsAt": "2999-01-01T00:00:00.000Z"}, "1"),
        ({"earlyAccessDeadline": "2999-01-01"}, "1"),
        ({"availability": "Early Access"}, "1"),
        ({"earlyAccessEndsAt": "2001-01-01T00:00:00Z", "availability": "Public"}, "2"),
        ({"earlyAccessEndsAt": "soon"}, "2"),
    ],
)
def test_a_version_that_is_not_public_yet_is_passed_over(
    newest: dict[str, Any], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = ({"id": 2, "files": [FILE], **newest}, {"id": 1, "files": [FILE]})
    assert resolved(monkeypatch, *versions).version == taken


def test_a_file_without_an_address_is_said_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match=r"model\.safetensors: the site names no address"):
        resolved(monkeypatch, {"id": 1, "files": [FILE | {"downloadUrl": None}]})
