"""Install a resolved model on this host and register it, for `model download` and `import`."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cli import backends, config
from cli.download.manifest import leave_out_optional
from cli.download.model_download import DownloadRequest, download
from cli.download.progress import progress_display
from cli.download.source import ResolvedModel
from cli.errors import Failure
from cli.models.install import models_dir, note_closed_files, register
from cli.presets.choice import preset_chooser
from cli.terminal.output import print_note
from shared.models.descriptor import LoraDescriptor, Name
from shared.models.families import Kind
from shared.models.verify import read_descriptor

INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, kw_only=True)
class InstallOptions:
    """What the operator overrides; None keeps what the source or the files say."""

    name: str | None = None
    version: str | None = None
    kind: str | None = None
    config: str | None = None
    preset: str | None = None
    parallel: int = 4


def install(resolved: ResolvedModel, options: InstallOptions) -> dict[str, Any]:
    """Install and register a model; return what the command prints.

    Raises `Failure`, `ModelUnavailable`, `InfraUnavailable`.
    """
    resolved = leave_out_optional(resolved)
    environ = config.environ()
    root = models_dir(environ)
    url = backends.database_url(environ)
    request = DownloadRequest(
        resolved=resolved,
        name=_validate(Name, options.name or resolved.name, "name"),
        version=_validate(Name, options.version or resolved.version, "version"),
        kind=None if options.kind is None else _validate(Kind, options.kind, "kind"),
        config=options.config,
        preset_given=options.preset is not None,
        choose_preset=preset_chooser(url, options.preset),
        parallel=options.parallel,
    )
    if resolved.skipped:
        print_note(f"left out: {', '.join(resolved.skipped)}")
    try:
        with progress_display() as display:
            summary, fetched = download(
                request, root, display, partial(register_and_summarize, url, root)
            )
    except KeyboardInterrupt:
        print_note("stopped; the same command goes on where this one was")
        # Python would wait for the threads, of which one may be in a long read or hash. The store
        # survives a cut at any point.
        os._exit(INTERRUPTED)
    return summary | {"fetched": fetched}


def register_and_summarize(url: str, root: Path, place: Path) -> dict[str, Any]:
    """Register an installed folder; return what the command prints of it."""
    model = read_descriptor(place)
    note_closed_files(place, root)
    more = (
        {"family": model.family}
        if isinstance(model, LoraDescriptor)
        else {"layout": model.layout, "preset": model.default_preset}
    )
    return {
        "id": register(url, place),
        "name": place.name,
        "kind": model.kind,
        **more,
        "path": str(place),
    }


def _validate(kind: Any, value: str, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise Failure(f"{what} {value!r}: {error.errors()[0]['msg']}") from None
