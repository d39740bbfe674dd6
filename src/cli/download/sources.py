"""Find the source of a reference: one of ours, or an entry point of another package."""

from importlib.metadata import entry_points
from typing import Any

from cli.download import civitai, huggingface
from cli.download import url as plain
from cli.download.source import Reference, ResolvedModel, Source
from cli.errors import Failure

GROUP = "dreamforge.model_sources"


def resolve(
    reference: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> ResolvedModel:
    """Resolve a reference by the source that its scheme names. Raises `Failure`."""
    scheme, colon, rest = reference.partition(":")
    if not colon:
        raise Failure(f"{reference} names no source", hint="write hf:OWNER/NAME for the hub")
    return find_source(scheme.lower())(
        Reference(scheme=scheme.lower(), rest=rest, include=include, exclude=exclude)
    )


def find_source(scheme: str) -> Source:
    """The source of a scheme. Raises `Failure` that lists all schemes."""
    ours: dict[str, Source] = {
        "hf": huggingface.resolve,
        "civitai": civitai.resolve,
        "https": plain.resolve,
        "http": plain.resolve,
        "file": plain.resolve,
    }
    foreign = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme in ours:  # another package cannot replace a source that users know
        return ours[scheme]
    if scheme in foreign:
        return _load(scheme, foreign[scheme])
    known = ", ".join(f"{name}:" for name in sorted(ours.keys() | foreign.keys()))
    raise Failure(f"no source is called {scheme!r}", hint=f"there are {known}")


def _load(scheme: str, entry: Any) -> Source:
    try:
        source: Source = entry.load()
    except (ImportError, AttributeError) as error:
        raise Failure(f"the source {scheme}: ({entry.value}) cannot be loaded: {error}") from error
    return source
