"""`https:`, `http:` and `file:`, one file each, with a mandatory `#sha256=`.

An address says nothing about its content, so the hash is the only reason to trust it.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from cli.download.source import Reference, RemoteFile, ResolvedModel, parse_origin, to_model_name
from cli.errors import Failure
from shared.models.folder import ONE_FILE, check_name

# Sites whose models have references of their own.
_PAGES = {
    **dict.fromkeys(("huggingface.co", "hf.co"), "hf:OWNER/NAME, or with #FILE behind it"),
    **dict.fromkeys(("civitai.com", "civitai.red"), "civitai:MODEL, or civitai:MODEL@VERSION"),
}
_HASH = re.compile(r"sha256=([0-9a-fA-F]{64})")


def resolve(reference: Reference) -> ResolvedModel:
    """Check the address; make no request. Raises `Failure`, `ModelUnavailable` for a bad file."""
    url, _, fragment = f"{reference.scheme}:{reference.rest}".partition("#")
    match = _HASH.fullmatch(fragment)
    try:
        parts = urlsplit(url)
        if parts.scheme != "file":
            parse_origin(url)
    except ValueError:
        raise Failure(f"{url!r} is no address") from None
    if match is None:
        raise Failure(
            f"{reference.scheme}: needs the hash of what it should hold",
            hint=_hint(parts.hostname or ""),
        )
    if parts.username or parts.password or (parts.scheme != "file" and not parts.hostname):
        raise Failure("the address must have a host, and no user name or password")
    if reference.include or reference.exclude:
        raise Failure("an address is one file: there is nothing to include or exclude")
    name = PurePosixPath(unquote(parts.path)).name
    check_name(name)
    if not name.lower().endswith(".safetensors"):
        raise Failure(f"{name}: only a safetensors file can be a model by itself")
    sha256 = match[1].lower()
    return ResolvedModel(
        name=to_model_name(PurePosixPath(name).stem),
        version=sha256[:12],
        # The query may hold a key that the user pasted with the address.
        uri=parts._replace(query="").geturl(),
        revision=sha256,
        files=(RemoteFile(path=ONE_FILE, url=url, sha256=sha256),),
        remedy="the address must answer with the file itself, without a sign-in",
        local=parts.scheme == "file",
    )


def _hint(host: str) -> str:
    """What was meant, perhaps: the page of a model is no file of one."""
    for site, reference in _PAGES.items():
        if host == site or host.endswith(f".{site}"):
            return f"for a model of this site write {reference}"
    return "append #sha256= and the 64 hex digits that the publisher names"
