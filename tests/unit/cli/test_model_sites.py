"""What a model site leaves out of its answers, and addresses of sites that are odd or pasted."""

from __future__ import annotations

from typing import Any

import pytest

from cli.download import civitai
from cli.download.source import Reference, ResolvedModel, read_endpoint
from cli.download.sources import resolve
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


@pytest.mark.parametrize(
    ("variable", "reference"), [("HF_ENDPOINT", "hf:owner/name"), ("CIVITAI_ENDPOINT", "civitai:1")]
)
@pytest.mark.parametrize(
    "address",
    [
        "mirror.example",
        "ftp://u:Secret@h",
        "https://h:99999",
        "https://u:Sec/ret@h",
        "https://xn--",
    ],
)
def test_an_odd_address_of_a_site_is_refused_with_its_variable(
    variable: str, reference: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, address)
    with pytest.raises(Failure, match=f"^{variable} ") as found:
        resolve(reference)
    assert "Sec" not in found.value.message + found.value.hint


def test_an_address_of_a_site_has_no_last_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", " https://mirror.example// ")
    assert read_endpoint("HF_ENDPOINT", "x") == "https://mirror.example"
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert read_endpoint("HF_ENDPOINT", "https://hub.example") == "https://hub.example"


@pytest.mark.parametrize(
    ("page", "hint"),
    [
        ("https://huggingface.co/owner/name", "hf:OWNER/NAME"),
        ("https://civitai.com/models/1?modelVersionId=2", "civitai:MODEL@VERSION"),
        ("https://nothuggingface.co/x.safetensors", "#sha256="),
    ],
)
def test_the_page_of_a_model_says_how_it_is_named(page: str, hint: str) -> None:
    with pytest.raises(Failure, match="needs the hash") as found:
        resolve(page)
    assert hint in found.value.hint
