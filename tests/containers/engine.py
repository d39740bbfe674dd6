"""The engine that the containers run in: Docker of this host, or Debian's in a tree of its own.

The tree is entered with `pivot_root` in namespaces of its own (mounts, processes, network): under
a mere `chroot` the processes that the engine starts in a container's namespaces, health checks and
`exec` among them, would see this host's files. Its network is user-mode (slirp4netns), so nothing
of this host's firewall, bridges or ports changes, and 8001 may be in use here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

RELEASE = "trixie"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "ca-certificates", "curl", "docker-buildx", "docker-cli", "docker-compose", "docker.io", "git",
    "iproute2", "iptables", "make", "procps", "python3-venv", "slirp4netns", "tini",
)  # fmt: skip
START_S = 60.0

# Runs as the first process of the tree's namespaces; the processes that its children leave are its
# own.
_ENTER = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p .host
pivot_root . .host
cd /
umount -l /.host
ip link set lo up
exec /usr/bin/tini -s -- sleep infinity
"""


class Broken(Exception):
    """Something did not do what the page says."""


class Engine:
    """Docker of this host, whose daemon answered. It is nobody's but its owner's to restart."""

    name = "the Docker of this host"
    restarts = False

    def __init__(self, work: Path) -> None:
        self.work = work  # the folder for everything, as this process sees it

    def inside(self, path: Path) -> str:
        """The same folder as the engine's own processes see it."""
        return str(path)

    def command(self, *words: str) -> list[str]:
        """What runs a program where the engine is."""
        return list(words)

    def try_run(
        self, script: str, *, folder: Path | None = None, timeout_s: float = 900.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a script by bash; what it prints is kept, errors with it."""
        where = f"cd {self.inside(folder)}\n" if folder else ""
        return subprocess.run(
            self.command("bash", "-euo", "pipefail", "-c", where + script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )

    def run(self, script: str, *, folder: Path | None = None, timeout_s: float = 900.0) -> str:
        """The same. Raises `Broken` with the end of the output where it fails."""
        ran = self.try_run(script, folder=folder, timeout_s=timeout_s)
        if ran.returncode != 0:
            raise Broken(f"exit {ran.returncode} of:\n{script.strip()}\n{ran.stdout[-4000:]}")
        return ran.stdout

    def restart(self) -> None:
        raise Broken("the engine of this host is not ours to restart")

    def close(self) -> None:
        """Nothing: what the walk made in it is gone already."""


class TreeEngine(Engine):
    """Debian's Docker in a tree below `work`, started by us and gone with us."""

    name = f"Docker of Debian {RELEASE}, in a tree of its own"
    restarts = True

    def __init__(self, work: Path, tree: Path) -> None:
        super().__init__(work)
        self.tree = tree
        self.work.mkdir(parents=True, exist_ok=True)
        self._first: subprocess.Popen[bytes] | None = None
        self._network: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._group = f"dreamforge-walk-{os.getpid()}"

    def inside(self, path: Path) -> str:
        return "/" + str(path.relative_to(self.tree))

    def command(self, *words: str) -> list[str]:
        pid = self._pid()
        return [
            "nsenter",
            f"--target={pid}",
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--",
            *words,
        ]

    def start(self) -> None:
        self._first = subprocess.Popen(
            [
                "unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
                "--propagation=private", "sh", "-c", _ENTER, "enter", str(self.tree),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it complains about a signal mask when its child was killed
        )  # fmt: skip
        self._until(lambda: self.try_run("ip -br link show lo | grep -q LOOPBACK,UP"), "the tree")
        self._network = subprocess.Popen(
            [
                "nsenter", f"--target={self._pid()}", "--mount", "--", "slirp4netns", "--configure",
                "--mtu=1500", "--disable-host-loopback", "--netns-type=path",
                "/proc/1/ns/net", "tap0",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._until(lambda: self.try_run("ip route | grep -q default"), "the network")
        self._start_daemon()

    def restart(self) -> None:
        """Stop the daemon as its service would, and start it again."""
        self._stop_daemon()
        self._start_daemon()

    def _start_daemon(self) -> None:
        settings = self.tree / "etc/docker/daemon.json"
        settings.parent.mkdir(exist_ok=True)
        # The store that can give layers the commit's time, and that Docker 29 has by default. CDI,
        # as the page says for an engine of this age. A control group of its own, which can be
        # removed beside those of another engine of this host.
        features = {"containerd-snapshotter": True, "cdi": True}
        settings.write_text(json.dumps({"features": features, "cgroup-parent": f"/{self._group}"}))
        with (self.work / "engine.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.command("dockerd"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._until(lambda: self.try_run("docker info"), "dockerd")
        except Broken as error:
            raise Broken(f"{error}\n{(self.work / 'engine.log').read_text()[-4000:]}") from None

    def _stop_daemon(self) -> None:
        if self._daemon is not None:
            # `nsenter` waits for it in another process-id namespace, so the signal is sent inside.
            self.try_run("kill -TERM $(cat /run/docker.pid)")
            self._daemon.wait(START_S)
            self._daemon = None

    def _until(self, attempt: object, what: str) -> None:
        assert callable(attempt)
        deadline = time.monotonic() + START_S
        while (ran := attempt()).returncode != 0:
            if time.monotonic() > deadline:
                raise Broken(f"{what} did not start within {START_S:g} s: {ran.stdout[-2000:]}")
            time.sleep(0.2)

    def _pid(self) -> int:
        """Of the first process inside. `unshare` forks it, and waits for it."""
        assert self._first is not None
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        deadline = time.monotonic() + START_S
        while not (found := children.read_text().split()):
            if time.monotonic() > deadline:
                raise Broken("no process came into the tree")
            time.sleep(0.05)
        return int(found[0])

    def close(self) -> None:
        """End all of it. With its first process the kernel ends every other one inside."""
        if self._first is None:
            return
        try:
            self._stop_daemon()
        finally:
            os.kill(self._pid(), signal.SIGKILL)
            self._first.wait(START_S)
            if self._network is not None:
                self._network.terminate()
                self._network.wait(START_S)
        for folder in _cgroups(self._group):
            _remove_cgroup(folder)


def _cgroups(name: str) -> list[Path]:
    """A group, in each of the host's hierarchies of control groups that has it."""
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir()]


def _remove_cgroup(folder: Path) -> None:
    """Remove a group and those in it. One with a process in it stays, and is an error."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    folder.rmdir()


def of_this_host() -> bool:
    """Whether a daemon answers here."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0
