"""What the doctor checks next: the stack, the parts that it uses, the services, the models."""

import shutil
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NotRequired, TypedDict

from cli.doctor.finding import Finding, note, ok, wrong
from cli.errors import StackError
from cli.files import disk_of
from cli.processes.part import http_get, http_not_ready
from cli.servers.embedded import SERVERS
from cli.stack import external
from cli.stack.external import ExternalPart
from cli.state_dir import StateDir, port_is_free, reachable
from shared.addresses import check_host
from shared.typed_json import Mismatch, parse, typed

# PostgreSQL ends when its log finds no room: 16 MB at a time, and pictures come in between.
FULL_BYTES, SCARCE_BYTES = 256 * 10**6, 2 * 10**9


class Template(TypedDict):
    pid: int | None  # None until it is forked
    state: str
    model: str | None
    bytes: int | None


class ControlGroups(TypedDict):
    below: NotRequired[str | None]
    lacks: NotRequired[str | None]


class WorkerState(TypedDict):
    """What is read of a worker's `/readyz`."""

    templates: list[Template]
    control_groups: NotRequired[ControlGroups | None]


def examine(environ: Mapping[str, str], home: StateDir) -> Iterator[Finding]:
    """The stack of `home`, running or not, and what `environ` names."""
    pid = home.holder()
    yield stack(home, pid)
    yield disk(home.path)
    yield from parts(environ)
    yield from services(environ, running=pid is not None)
    yield from models(Path(environ.get("DF_MODELS_DIR") or home.path / "models"))


def stack(home: StateDir, pid: str | None) -> Finding:
    if pid:
        return ok("Stack", f"{home.path}: runs (pid {pid})")
    return ok("Stack", f"{home.path}: nothing runs", "`dreamforge up` starts everything")


def disk(folder: Path) -> Finding:
    """The room for data, models and logs."""
    place = disk_of(folder)
    free_bytes = shutil.disk_usage(place).free
    text = f"{free_bytes / 1e9:.1f} GB free at {place}, where {folder} is"
    advice = "make room, or set DF_HOME to a folder on another disk"
    if free_bytes < FULL_BYTES:
        return wrong("Disk", text, advice)
    return note("Disk", text, advice) if free_bytes < SCARCE_BYTES else ok("Disk", text)


def parts(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether each part that a setting or a running stack names can be reached."""
    for server in SERVERS:
        try:
            part = external.find(server, environ)
        except StackError as error:
            yield wrong("Settings", str(error))
            continue
        if part is None:
            yield ok("Part", f"{server.settings[0]} is not set: `dreamforge up` starts its own")
        else:
            yield _check_reachable(part)


def _check_reachable(part: ExternalPart) -> Finding:
    why = part.unreachable()
    if why is None:
        return ok(part.title, f"listens at {part.address} ({part.setting})")
    return wrong(
        part.title,
        why,
        f"start it, or correct {part.setting}; unset, `dreamforge up` starts its own",
    )


def services(environ: Mapping[str, str], *, running: bool) -> Iterator[Finding]:
    for name, default in (("api", "8001"), ("worker", "8002")):
        setting = f"DF_{name.upper()}_PORT"
        value = environ.get(setting) or default
        try:
            host = check_host(environ.get(f"DF_{name.upper()}_HOST") or "127.0.0.1")
        except ValueError as error:
            yield wrong(name, f"DF_{name.upper()}_HOST: {error}")
            continue
        if not value.isdecimal() or len(value) > 5 or int(value) > 65535:
            yield wrong(name, f"{setting} is no port number")
        elif (why := http_not_ready(f"{reachable(host)}:{value}", "/readyz")) is None:
            yield ok(name, f"ready at port {value}")
            if name == "worker":
                yield from templates(f"{reachable(host)}:{value}")
        elif not running and port_is_free(host, int(value)):
            yield ok(name, f"port {value} is free for it")
        else:
            yield wrong(
                name,
                f"port {value} ({setting}): {why}",
                f"end what uses the port, set {setting}, or look into its log",
            )


def templates(address: str) -> Iterator[Finding]:
    """What the worker at `address` keeps in the host's memory for its next steps."""
    try:
        _, body = http_get(address, "/readyz")
        state = typed(WorkerState, parse(body))
    except (OSError, HTTPException, Mismatch) as error:
        yield note("Templates", f"the worker does not list them: {error}", "look into its log")
        return
    yield from _step_groups(state.get("control_groups") or {})
    for template in state["templates"]:
        model = template["model"] or "no model"
        size = f", {template['bytes'] / 1e6:.0f} MB" if template["bytes"] else ""
        pid = f" (pid {template['pid']})" if template["pid"] is not None else ""
        yield ok("Template", f"{model}: {template['state']}{size}{pid}")


def _step_groups(groups: ControlGroups) -> Iterator[Finding]:
    """Whether the steps of the worker that runs have control groups; an older one says nothing."""
    if base := groups.get("below"):
        yield ok("Memory", f"each step of the worker has a control group below {base}")
    elif groups:
        yield note(
            "Memory",
            f"the steps of the worker have no control groups: {groups.get('lacks')}",
            "docs/worker.md says how a worker gets groups (systemd: Delegate=yes)",
        )


def models(root: Path) -> Iterator[Finding]:
    """Every installed model, checked as deeply as a load does: sizes and headers; and the packages
    that only these models need."""
    from cli.models.install import bundled_models
    from shared.errors import ModelUnavailable
    from shared.models.folder import DESCRIPTOR
    from shared.models.libraries import Library, libraries_of
    from shared.models.verify import check_installed, read_descriptor

    folders = sorted(path.parent for path in root.glob(f"*/*@*/{DESCRIPTOR}"))
    needed: dict[Library, str] = {}
    for folder in folders:
        try:
            checksum = read_descriptor(folder).checkpoint_sha256
            installed = check_installed(folder, checkpoint_sha256=checksum)
            yield ok("Model", str(folder))
            for library in libraries_of(folder, installed):
                needed.setdefault(library, folder.name)
        except ModelUnavailable as error:
            yield wrong(
                "Model",
                f"{folder}: {error.message}",
                "install it again with `dreamforge model import`",
            )
        except ModuleNotFoundError as error:  # the api's image reads no weights
            yield note(
                "Model",
                f"{folder}: not checked, this installation has no package {error.name}",
                "run `dreamforge doctor` in the worker's image",
            )
    for library, name in needed.items():
        if library.is_installed:
            yield ok("Package", f"{library.package} is installed, which {name} needs")
        else:
            yield note(
                "Package",
                f"{library.package} is not installed, and {name} needs it "
                f"({library.needed_by}): a worker here does not run it",
                f"install dreamforge[{library.extra}], unless no worker runs here",
            )
    if not folders:
        shipped = ", ".join(folder.name for folder in bundled_models())
        yield note(
            "Model",
            f"none in {root} yet; `dreamforge up` brings {shipped}",
            "`dreamforge model import FOLDER` registers a real one",
        )
