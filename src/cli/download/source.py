"""What a place to download from must be able to say, and how such places are found.

    resolve    the adapter's: a reference becomes a pinned list of files
    fetch      ours, `transfer.py`: bytes, with resuming and retries
    verify     ours, `engine.py`: sizes, hashes, kinds of files, headers
    describe   ours, `shared.registry`: the descriptor

An adapter is a callable, so it cannot weaken the other three. Those of other packages are entry
points of the group `dreamforge.model_sources`, named like the scheme that they answer to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points

from cli.failures import Failure

GROUP = "dreamforge.model_sources"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file. `path` is where it goes in the model's folder; what is None is not announced."""

    path: str
    url: str  # http, https or file
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None  # of a git blob: what the hub has for small files


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a reference means now. `uri` and `revision` stand in the descriptor: no secrets."""

    name: str
    version: str
    uri: str
    revision: str | None
    files: tuple[RemoteFile, ...]
    license: str | None = None
    left_out: tuple[str, ...] = ()
    # Sent to the host of each file's url and to no other.
    token: str | None = field(default=None, repr=False)
    remedy: str = ""  # what to do when the host asks for a sign-in


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line asked for: the reference after its scheme, and choices of files."""

    scheme: str
    rest: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


Source = Callable[[Wanted], Resolved]


def source_for(scheme: str) -> Source:
    """The adapter of a scheme; `Failure` lists those that there are."""
    from cli.download import hub, plain

    ours: dict[str, Source] = {
        "hf": hub.resolve,
        "https": plain.resolve,
        "http": plain.resolve,
        "file": plain.resolve,
    }
    foreign = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme in ours:  # nobody takes the place of a source that people know
        return ours[scheme]
    if scheme in foreign:
        found: Source = foreign[scheme].load()
        return found
    known = ", ".join(f"{name}:" for name in sorted(ours.keys() | foreign.keys()))
    raise Failure(f"no source is called {scheme!r}", hint=f"there are {known}")
