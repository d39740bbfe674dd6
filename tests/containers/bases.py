"""Stand-ins for the images that the files name, where no registry can be reached.

Each has the name and tag of what it stands for, so that the Dockerfiles and `compose.yaml` are
used as they are, and is made from packages. What differs is printed: it is what such a run does
not show.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import files, requires
from pathlib import Path

from packaging.requirements import Requirement
from tests.containers import tree
from tests.containers.engine import Broken, Engine
from tests.support.deployment import ROOT, bases, compose

PYTHON = ("ca-certificates", "python-is-python3", "python3", "python3-pip", "python3-venv")
# Debian's release whose Python has the version of this checkout's environment: its torch is copied.
OF_PYTHON = {(3, 11): "bookworm", (3, 13): "trixie"}


def names() -> dict[str, str]:
    """The images that are needed, by what they are for."""
    services = compose()["services"]
    (api,) = bases(ROOT / "deploy/api.Dockerfile")
    (worker,) = bases(ROOT / "deploy/worker.Dockerfile")
    return {
        "api": api,
        "worker": worker,
        **{name: services[name]["image"] for name in ("postgres", "redis", "s3")},
        "backup": "debian:trixie-slim",
    }


def are_there(engine: Engine) -> bool:
    """Whether the engine has all of them already, from a registry or from a run before."""
    return engine.try_run(f"docker image inspect {' '.join(names().values())}").returncode == 0


def registry_is_reached(engine: Engine) -> bool:
    """Whether the smallest of the images can be pulled."""
    name = names()["s3"]
    return engine.try_run(f"timeout 60 docker pull --quiet {name}").returncode == 0


def make(engine: Engine, trees: Path) -> list[str]:
    """Make all of them. What is said of each is returned."""
    wanted = names()
    trixie = trees / "python-trixie"
    tree.make(trixie, "trixie", PYTHON)
    release = OF_PYTHON.get(sys.version_info[:2])
    if release is None:
        raise Broken(
            f"no Debian has Python {sys.version.split()[0]}; run `make setup` with 3.11 or 3.13"
        )
    torch = trees / f"torch-{release}"
    _torch_tree(torch, release, trixie)
    servers = trees / "servers"
    tree.make(servers, "trixie", ("ca-certificates", "curl", "postgresql", "valkey-server", "wget"))
    _import(engine, trixie, wanted["api"], [])
    _import(engine, trixie, wanted["backup"], [])
    _import(engine, torch, wanted["worker"], [])
    _postgres(engine, servers, wanted["postgres"])
    _valkey(engine, servers, wanted["redis"])
    _store(engine, servers, wanted["s3"])
    return [
        f"{wanted['api']}: Debian's Python of trixie",
        f"{wanted['worker']}: Debian {release} with this checkout's torch for the CPU, which is"
        " made to say that it was built for CUDA, and a torchvision without its compiled operators",
        f"{wanted['postgres']}: Debian's PostgreSQL 17, with an entrypoint of the walk's own",
        f"{wanted['redis']}: Debian's Valkey 8.1",
        f"{wanted['s3']}: JuiceFS's gateway, of `dreamforge up`, under versitygw's name; its health"
        " route is another, which a wget of the walk's own knows",
    ]


def _import(engine: Engine, rootfs: Path, name: str, changes: list[str]) -> None:
    options = " ".join(f"--change '{change}'" for change in changes)
    packed = engine.work / "base.tar"
    subprocess.run(
        ["tar", "--create", "--file", str(packed), "--directory", str(rootfs), "--exclude=./.made",
         "--exclude=./.minimal", "--exclude=./dev/*", "--exclude=./var/cache/apt/*", "."],
        check=True,
    )  # fmt: skip
    engine.run(f"docker import {options} {engine.inside(packed)} {name}")
    packed.unlink()


def _torch_tree(rootfs: Path, release: str, trixie: Path) -> None:
    """A tree with the torch of this environment, where a base image of torch has it."""
    if (rootfs / ".torch").exists():
        return
    if release == "trixie":
        subprocess.run(["cp", "-a", str(trixie), str(rootfs)], check=True)
    else:
        tree.make(rootfs, release, PYTHON)
    (site,) = (rootfs / "usr/local/lib").glob("python3.*/dist-packages")
    for name in _closure("torch"):
        for found in files(name) or ():
            source = Path(str(found.locate()))
            if ".." not in found.parts and "__pycache__" not in found.parts and source.is_file():
                target = site / Path(*found.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    version = site / "torch/version.py"
    version.write_text(version.read_text().replace("cuda: Optional[str] = None", "cuda = 'none'"))
    _torchvision(site)
    (rootfs / ".torch").touch()


def _torchvision(site: Path) -> None:
    """The release that is pinned. Its compiled half fits no torch but the index's own."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
         "--constraint", str(ROOT / "constraints.txt"), "torchvision"],
        check=True,
    )  # fmt: skip
    (site / "torchvision/_meta_registrations.py").write_text("")


def _closure(name: str) -> set[str]:
    """A package and all that it needs and that is installed here."""
    found, waiting = set[str](), [name]
    while waiting:
        each = waiting.pop()
        if each in found or not _installed(each):
            continue
        found.add(each)
        for line in requires(each) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


def _installed(name: str) -> bool:
    try:
        return files(name) is not None
    except ModuleNotFoundError:
        return False


# Makes the cluster at its first start, and becomes the server: what PostgreSQL's own image does.
_POSTGRES = """#!/bin/sh
set -eu
export PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/17/data
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --wait start --options="-c listen_addresses=''"
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --wait stop
fi
exec postgres -c listen_addresses='*'
"""
_STORE = """#!/bin/sh
set -eu
export MINIO_ROOT_USER=$ROOT_ACCESS_KEY_ID MINIO_ROOT_PASSWORD=$ROOT_SECRET_ACCESS_KEY HOME=/tmp
cd "$2"
blocks=$2/blocks/
juicefs --no-agent format --storage file --bucket "$blocks" --trash-days 0 \\
    sqlite3://meta.db dreamforge
exec juicefs --no-agent gateway --multi-buckets --keep-etag --object-meta --object-tag \\
    --no-banner --no-usage-report --metrics 127.0.0.1:0 --cache-dir memory --cache-size 64 \\
    --backup-meta 0 --storage file --bucket "$blocks" sqlite3://meta.db "0.0.0.0$VGW_PORT"
"""
# Before Valkey 9 the variable had Redis's name.
_VALKEY_CLI = """#!/bin/sh
REDISCLI_AUTH=$VALKEYCLI_AUTH exec /usr/bin/valkey-cli "$@"
"""
_WGET = """#!/bin/sh
exec curl --silent --fail --output /dev/null http://127.0.0.1:7070/minio/health/ready
"""


def _built(engine: Engine, servers: Path, name: str, steps: str, **programs: str) -> None:
    """An image over the servers' tree, with programs of ours in it."""
    folder = engine.work / "base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for program, text in programs.items():
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    if "juicefs" in steps:
        shutil.copy(Path(sys.prefix) / "bin/juicefs", folder / "juicefs")
    if engine.try_run("docker image inspect df-servers").returncode != 0:
        _import(engine, servers, "df-servers", [])
    (folder / "Dockerfile").write_text(f"FROM df-servers\n{steps}")
    engine.run(f"docker build --quiet --tag {name} .", folder=folder)
    shutil.rmtree(folder)


def _postgres(engine: Engine, servers: Path, name: str) -> None:
    _built(
        engine, servers, name,
        "COPY entry /usr/local/bin/entry\n"
        "RUN usermod --uid 999 postgres && groupmod --gid 999 postgres"
        " && rm -rf /var/lib/postgresql && install -d -o 999 -g 999 /var/lib/postgresql"
        " && ln -s /usr/lib/postgresql/17/bin/* /usr/local/bin/\n"
        'ENTRYPOINT ["entry"]\n'
        "STOPSIGNAL SIGINT\n",  # does not wait for its clients to go
        entry=_POSTGRES,
    )  # fmt: skip


def _valkey(engine: Engine, servers: Path, name: str) -> None:
    _built(
        engine, servers, name,
        "COPY valkey-cli /usr/local/bin/\nRUN install -d -o 999 -g 1000 /data\nWORKDIR /data\n",
        **{"valkey-cli": _VALKEY_CLI},
    )  # fmt: skip


def _store(engine: Engine, servers: Path, name: str) -> None:
    _built(
        engine, servers, name,
        "COPY versitygw wget juicefs /usr/local/bin/\n",
        versitygw=_STORE,
        wget=_WGET,
    )  # fmt: skip
