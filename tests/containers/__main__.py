"""`make test-containers`: build the images and walk docs/deployment.md, on a real engine.

Needs root on Debian or Ubuntu and about half an hour; never part of the suite. Where a Docker
daemon answers it is used; else Debian's Docker is unpacked into a tree of its own. Of the walk
nothing is left but the build cache of a daemon that was there before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.containers import bases, tree
from tests.containers.engine import PACKAGES, RELEASE, Broken, Engine, TreeEngine, of_this_host
from tests.containers.walk import Walk
from tests.support.deployment import ROOT


def main() -> None:
    options = argparse.ArgumentParser(prog="make test-containers", description=__doc__)
    options.add_argument("--trees", type=Path, help="keep trees and images here, for the next run")
    options.add_argument(
        "--own", action="store_true", help="an engine in a tree, whatever runs here"
    )
    options.add_argument(
        "--release", action="store_true", help="`make release` at the end (15 minutes more)"
    )
    given = options.parse_args()
    if os.geteuid() != 0:
        sys.exit("make test-containers needs root: it starts an engine, or uses root's")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leaves nothing either
    with tempfile.TemporaryDirectory(prefix="dreamforge-containers-", dir="/var/tmp") as folder:
        trees = given.trees or Path(folder)
        try:
            engine = _engine(trees, Path(folder), own=given.own)
            try:
                _start(engine)
                failed = walk(engine, trees, release=given.release)
            finally:
                engine.close()
                if isinstance(engine, TreeEngine):
                    shutil.rmtree(engine.work)
        except Broken as error:
            sys.exit(f"{error}")
    sys.exit(1 if failed else 0)


def _engine(trees: Path, folder: Path, *, own: bool) -> Engine:
    if of_this_host() and not own:
        return Engine(folder)
    started = time.monotonic()
    rootfs = trees / "engine"
    tree.make(rootfs, RELEASE, PACKAGES)
    report("ok", "a tree of Debian for the engine", time.monotonic() - started)
    return TreeEngine(rootfs / "walk", rootfs)


def _start(engine: Engine) -> None:
    if isinstance(engine, TreeEngine):
        started = time.monotonic()
        engine.start()
        report("ok", engine.name, time.monotonic() - started)


def walk(engine: Engine, trees: Path, *, release: bool) -> bool:
    """Every step, until one fails. Whether one did."""
    say(
        f"engine: {engine.name}: "
        + engine.run("docker version --format '{{.Server.Version}}'").strip()
    )
    say("compose: " + engine.run("docker compose version --short").strip())
    if engine.restarts:
        _remove_what_a_killed_walk_left(engine)
    else:
        _refuse_to_touch_another(engine)
    before, running = _images(engine), _objects(engine)
    if not (bases.are_there(engine) or bases.registry_is_reached(engine)):
        started = time.monotonic()
        said = bases.make(engine, trees)
        say("no registry is reached. Stand-ins from packages have the names of the base images:")
        for line in said:
            say(f"  - {line}")
        report("ok", "stand-ins for base images", time.monotonic() - started)
    origin, clone = _clone(engine)
    steps = Walk(engine, origin, clone, release=release)
    failed = False
    try:
        for name, step in steps.steps():
            if not _passes(engine, clone, name, step):
                failed = True
                break
    finally:
        engine.try_run("docker compose --profile tools down --volumes --timeout 60", folder=clone)
        if not engine.restarts:  # those of an engine of our own go with it
            engine.try_run("docker rmi --force " + " ".join(_images(engine) - before))
    for fact in steps.facts:
        say(fact)
    if left := _objects(engine) - running:
        say(f"left behind: {', '.join(sorted(left))}")
    return failed or bool(left)


def _passes(engine: Engine, clone: Path, name: str, step: Callable[[], None]) -> bool:
    started = time.monotonic()
    try:
        step()
    except (Broken, subprocess.TimeoutExpired) as error:
        report("FAILED", name, time.monotonic() - started)
        say(str(error))
        shown = "docker compose ps --all; docker compose logs --tail 40"
        say(engine.try_run(shown, folder=clone).stdout)
        return False
    report("ok", name, time.monotonic() - started)
    return True


def _objects(engine: Engine) -> set[str]:
    """Containers, volumes and networks of the engine."""
    return {
        f"{kind} {name}"
        for kind, names in {
            "container": "docker ps --all --format '{{.Names}}'",
            "volume": "docker volume ls --format '{{.Name}}'",
            "network": "docker network ls --format '{{.Name}}'",
        }.items()
        for name in engine.run(names).split()
    }


def _remove_what_a_killed_walk_left(engine: Engine) -> None:
    """In a kept tree, whose engine has nobody else's containers."""
    engine.run(
        "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force\n"
        "docker network prune --force\n"
        "docker volume prune --all --force"
    )


def _refuse_to_touch_another(engine: Engine) -> None:
    """The walk would remove the projects `dreamforge` and `dreamforge-worker` of this engine."""
    found = [
        each
        for project in ("dreamforge", "dreamforge-worker")
        for kind in ("ps --all", "volume ls")
        for each in engine.run(
            f"docker {kind} --quiet --filter label=com.docker.compose.project={project}"
        ).split()
    ]
    if found:
        raise Broken("this engine has an installation of Dream Forge: use --own for another engine")


def _images(engine: Engine) -> set[str]:
    return set(engine.run("docker image ls --format '{{.Repository}}:{{.Tag}}'").split())


def _clone(engine: Engine) -> tuple[Path, Path]:
    """What is committed here, as a repository with a clone of it."""
    origin, clone = engine.work / "origin", engine.work / "dreamforge"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(origin)], check=True)
    engine.run(f"git clone --quiet {engine.inside(origin)} {engine.inside(clone)}")
    return origin, clone


def report(word: str, name: str, seconds: float) -> None:
    say(f"{word:6} {seconds:6.0f} s  {name}")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
