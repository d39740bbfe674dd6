"""`civitai:<model id>[@<version id>]`, or `civitai:<version id>`.

Model and version have numbers of their own, and the page of a model has the model's in its
address. So a number alone is a model, of which the newest version is taken, and a version only
where there is no such model. The token is CIVITAI_TOKEN. CIVITAI_ENDPOINT names another site with
the same API.

API: https://developer.civitai.com/site/reference/model-versions
"""

import re
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from cli.download.file_selection import matches
from cli.download.source import (
    Credential,
    Reference,
    RemoteFile,
    ResolvedModel,
    parse_origin,
    read_endpoint,
    read_token,
    to_model_name,
)
from cli.download.transfer import Transfer
from cli.errors import Failure, first_problem
from cli.terminal.output import print_note
from shared.models.folder import ONE_FILE, check_name

M = TypeVar("M", bound=BaseModel)

DEFAULT_ENDPOINT = "https://civitai.com"
REMEDY = "set CIVITAI_TOKEN to a key from your account's settings; early access has to be bought"
SIZE_TOLERANCE_BYTES = 1024  # the site counts in KiB and rounds
_REFERENCE = re.compile(r"(?P<number>[0-9]{1,18})(@(?P<version>[0-9]{1,18}))?")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
# The types that are a model by themselves, or a LoRA, of which the tensors decide whether it is one
# that can be used. The others steer a model, or are words for one.
_TYPES = ("Checkpoint", "Upscaler", "LORA", "LoCon", "DoRA")
# The types of file that are no model. Of any other type the tensors decide.
_OTHER_FILES = frozenset(
    {"archive", "clip", "config", "image", "negative", "text encoder", "training data", "vae"}
    | {"workflow", "workflows"}
)
_EARLY = frozenset({"earlyaccess", "private"})


class _Answered(BaseModel):
    """What the site answers; it has null where it has nothing."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}


class _File(_Answered):
    name: str = Field(default="", max_length=1024)
    type: str = "Model"
    primary: bool = False
    sizeKB: float | None = Field(default=None, ge=0, le=1e12, allow_inf_nan=False)  # noqa: N815
    hashes: dict[str, str | None] = {}
    downloadUrl: str = ""  # noqa: N815


class _Version(_Answered):
    id: int
    name: str = ""
    files: list[_File] = []
    availability: str = ""
    earlyAccessEndsAt: str = ""  # noqa: N815
    earlyAccessDeadline: str = ""  # noqa: N815  the same, in some answers

    @property
    def is_public(self) -> bool:
        """Whether everybody may fetch it; early access has to be bought."""
        early = self.availability.replace(" ", "").lower() in _EARLY
        return not (
            early or any(map(_is_ahead, (self.earlyAccessEndsAt, self.earlyAccessDeadline)))
        )


def _is_ahead(moment: str) -> bool:
    """Whether a moment in ISO 8601 is still to come; a text that is none is not."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return False
    return then.replace(tzinfo=then.tzinfo or UTC) > datetime.now(UTC)


class _Model(_Answered):
    id: int
    name: str
    type: str
    modelVersions: list[_Version] = []  # noqa: N815  newest first


class _OfVersion(BaseModel):
    modelId: int  # noqa: N815


def resolve(reference: Reference) -> ResolvedModel:
    """Ask the site. Raises `Failure` with the remedy, `ModelUnavailable` for files not accepted."""
    match = _REFERENCE.fullmatch(reference.rest)
    if match is None:
        raise Failure(f"civitai:{reference.rest} is not civitai:<model id>[@<version id>]")
    endpoint = read_endpoint("CIVITAI_ENDPOINT", DEFAULT_ENDPOINT)
    credential = None
    if token := read_token("CIVITAI_TOKEN"):
        credential = Credential(token=token, origin=parse_origin(endpoint), parameter="token")
    with closing(Transfer(credential=credential, remedy=REMEDY)) as transfer:
        model, version = _find(transfer, endpoint, match["number"], match["version"])
    if model.type not in _TYPES:
        raise Failure(
            f"civitai:{model.id} ({model.name}) is a {model.type}, and no model, upscaler or LoRA"
        )
    chosen = _choose(version, reference)
    return ResolvedModel(
        name=to_model_name(model.name),
        version=str(version.id),
        uri=f"civitai:{model.id}",
        revision=str(version.id),
        files=(_remote_file(chosen, endpoint),),
        skipped=tuple(file.name for file in version.files if file is not chosen),
        credential=credential,
        remedy=REMEDY,
    )


def _find(
    transfer: Transfer, endpoint: str, number: str, version: str | None
) -> tuple[_Model, _Version]:
    what = f"civitai:{number}"
    answer = transfer.get_json(f"{endpoint}/api/v1/models/{number}", what)
    if answer is None and version is None:
        version = number
        of_version = transfer.get_json(f"{endpoint}/api/v1/model-versions/{number}", what)
        if of_version is not None:
            model_id = _parse(_OfVersion, of_version, what).modelId
            answer = transfer.get_json(f"{endpoint}/api/v1/models/{model_id}", what)
    if answer is None:
        raise Failure(f"{what} is not there, or it is private", hint=REMEDY)
    model = _parse(_Model, answer, what)
    if version is None and model.modelVersions:
        return model, _newest(what, model.modelVersions)
    for candidate in model.modelVersions:
        if version is not None and candidate.id == int(version):
            return model, candidate
    known = ", ".join(f"{each.id} ({each.name})" for each in model.modelVersions[:5])
    raise Failure(
        f"{what} ({model.name}) has no version {version or 'at all'}",
        hint=f"there are {known}" if known else "",
    )


def _newest(what: str, versions: list[_Version]) -> _Version:
    """The newest version that everybody may fetch; of a model without any, the newest."""
    first = versions[0]
    chosen = next((version for version in versions if version.is_public), first)
    if chosen is not first:
        print_note(
            f"{what}: version {first.id} ({first.name}) is in early access; taking {chosen.id} "
            f"({chosen.name}), the newest public one"
        )
    return chosen


def _choose(version: _Version, reference: Reference) -> _File:
    """The one file to fetch: the publisher's first choice among the usable ones."""
    matching = [
        file
        for file in version.files
        if (not reference.include or matches(file.name, reference.include))
        and not matches(file.name, reference.exclude)
    ]
    usable = [
        file
        for file in matching
        if file.name.lower().endswith(".safetensors")
        and (reference.include or file.type.lower() not in _OTHER_FILES)
    ]
    if not usable:
        for file in matching:
            check_name(file.name)  # says of a pickle why it is refused
        names = ", ".join(file.name for file in version.files) or "nothing"
        raise Failure(f"version {version.id} holds no safetensors checkpoint: {names}")
    return max(usable, key=lambda file: file.primary)  # max keeps the first of equals


def _remote_file(file: _File, endpoint: str) -> RemoteFile:
    sha256 = file.hashes.get("SHA256") or ""
    if not _SHA256.fullmatch(sha256):
        raise Failure(
            f"{file.name}: the site names no SHA-256 of it, so nothing could be proven",
            hint="it appears when the site has scanned the file; or use its address with #sha256=",
        )
    if not file.downloadUrl:
        raise Failure(f"{file.name}: the site names no address of it", hint=REMEDY)
    origin = parse_origin(file.downloadUrl)
    if origin != parse_origin(endpoint):
        raise Failure(
            f"{file.name}: the site names an address on another host, {origin}",
            hint=f"CIVITAI_TOKEN was not shown there; CIVITAI_ENDPOINT={origin} asks that host",
        )
    return RemoteFile(
        path=ONE_FILE,
        url=file.downloadUrl,
        size_bytes=round(file.sizeKB * 1024) if file.sizeKB else None,
        tolerance_bytes=SIZE_TOLERANCE_BYTES,
        sha256=sha256.lower(),
    )


def _parse(model: type[M], answer: Any, what: str) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise Failure(f"{what}: the site answered oddly: {first_problem(error)}") from None
