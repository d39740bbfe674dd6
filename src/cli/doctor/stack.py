"""What `doctor` looks at next: the stack, the parts that it uses, the services, the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cli.doctor.machine import Finding, Level
from cli.errors import StackError
from cli.stack import external
from cli.stack.external import ExternalPart
from cli.stack.part import http_not_ready
from cli.state_dir import StateDir, port_is_free


def examine(environ: Mapping[str, str], home: StateDir) -> Iterator[Finding]:
    """The stack of `home`, running or not, and what `environ` names."""
    running = home.holder()
    yield stack(home, running)
    yield from parts(environ)
    yield from services(environ, running=running is not None)
    yield from models(Path(environ.get("DF_MODELS_DIR") or home.path / "models"))


def stack(home: StateDir, running: str | None) -> Finding:
    text = f"{home.path}: " + (f"runs (pid {running})" if running else "nothing runs")
    advice = "" if running else "`dreamforge up` starts everything"
    return Finding(level=Level.OK, subject="Stack", text=text, advice=advice)


def parts(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each part that a setting or a running stack names: is somebody there?"""
    for setting, find in (
        ("DF_DATABASE_URL", external.database),
        ("DF_REDIS_URL", external.broker),
        ("DF_S3_ENDPOINT", external.store),
    ):
        try:
            part = find(environ)
        except StackError as error:
            yield Finding(level=Level.WRONG, subject="Settings", text=str(error))
            continue
        if part is None:
            text = f"{setting} is not set: `dreamforge up` starts its own"
            yield Finding(level=Level.OK, subject="Part", text=text)
        else:
            yield _reached(part)


def services(environ: Mapping[str, str], *, running: bool) -> Iterator[Finding]:
    for name, default in (("api", "8001"), ("worker", "8002")):
        setting = f"DF_{name.upper()}_PORT"
        value = environ.get(setting) or default
        if not value.isdecimal() or int(value) > 65535:
            text = f"{setting} is no port number"
            yield Finding(level=Level.WRONG, subject=name, text=text)
        elif (why := http_not_ready(f"127.0.0.1:{value}", "/readyz")) is None:
            yield Finding(level=Level.OK, subject=name, text=f"ready at port {value}")
        elif not running and port_is_free("127.0.0.1", int(value)):
            yield Finding(level=Level.OK, subject=name, text=f"port {value} is free for it")
        else:
            yield Finding(
                level=Level.WRONG,
                subject=name,
                text=f"port {value} ({setting}): {why}",
                advice=f"end what uses the port, set {setting}, or look into its log",
            )


def models(root: Path) -> Iterator[Finding]:
    """Every installed model, checked as deeply as a load does: sizes and headers."""
    from cli.models.install import bundled_models
    from shared.errors import ModelUnavailable
    from shared.models.folder import DESCRIPTOR
    from shared.models.verify import check_installed, read_model

    folders = sorted(path.parent for path in root.glob(f"*/*@*/{DESCRIPTOR}"))
    for folder in folders:
        try:
            check_installed(folder, checkpoint_sha256=read_model(folder).checkpoint_sha256)
        except ModelUnavailable as error:
            yield Finding(
                level=Level.WRONG,
                subject="Model",
                text=f"{folder}: {error.message}",
                advice="install it again with `dreamforge model import`",
            )
        else:
            yield Finding(level=Level.OK, subject="Model", text=str(folder))
    if not folders:
        shipped = (
            ", ".join(folder.name for folder in bundled_models()) or "a tiny one that draws noise"
        )
        yield Finding(
            level=Level.NOTE,
            subject="Model",
            text=f"none in {root} yet; `dreamforge up` brings {shipped}",
            advice="`dreamforge model import FOLDER` registers a real one",
        )


def _reached(part: ExternalPart) -> Finding:
    why = part.unreachable()
    if why is None:
        return Finding(
            level=Level.OK, subject=part.title, text=f"listens at {part.address} ({part.setting})"
        )
    return Finding(
        level=Level.WRONG,
        subject=part.title,
        text=why,
        advice=f"start it, or correct {part.setting}; unset, `dreamforge up` starts its own",
    )
