"""`docs/deployment.md`, one step after another. A step raises `Broken`, and the walk ends there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.containers.engine import Broken, Engine
from tests.containers.page import blocks
from tests.containers.stack import OURS, RUNNING, Stack
from tests.support.deployment import ROOT, VERSION, bases, compose

# The containers' own processes see no capability, and cannot get one.
NOTHING = "0000000000000000"
LONG_JOB = {"count": 8}
BUILD_S = 3600.0  # the packages come from an index


class Walk:
    """The steps share one stack. `facts` is what is printed beside them."""

    def __init__(self, engine: Engine, origin: Path, clone: Path, *, release: bool) -> None:
        self.engine, self.origin, self.clone, self.with_release = engine, origin, clone, release
        self.stack = Stack(engine, clone)
        self.facts: list[str] = []
        self.jobs: list[str] = []

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("secrets, up, import; both images are built", self.up),
            ("down and up again", self.up_again),
            ("what each container may", self.check_limits),
            ("secrets and their modes", self.check_secrets),
            ("a job as on the page", self.first_job),
            ("model list", self.model_list),
            ("stop the worker while it draws", self.drain),
            *((f"kill -9 of {name}", self._killed(name)) for name in RUNNING),
            *([("restart of the engine", self.restart_engine)] if self.engine.restarts else []),
            ("upgrade with a running job", self.upgrade),
            ("a worker of another host", self.second_worker),
            ("backup", self.backup),
            ("restore into empty volumes", self.restore),
            ("the GPU file without a GPU", self.gpu_file),
            *([("make release", self.release)] if self.with_release else []),
        ]

    def up(self) -> None:
        """The first commands of the page, which build what is not there."""
        self.stack.run(blocks("One host")[0], timeout_s=BUILD_S)
        for name in OURS:
            image = f"dreamforge-{name}:{VERSION}"
            (base,) = bases(ROOT / f"deploy/{name}.Dockerfile")
            size = self._size(image) - self._size(base)
            self.facts.append(f"dreamforge-{name}: {size / 1e6:.0f} MB over its base")

    def _size(self, image: str) -> int:
        return int(self.engine.run(f"docker image inspect --format '{{{{.Size}}}}' {image}"))

    def up_again(self) -> None:
        self.stack.compose("down --timeout 60")
        started = time.monotonic()
        self.stack.compose("up --detach --wait")
        self.facts.append(f"up --wait, all built: {time.monotonic() - started:.0f} s")

    def check_limits(self) -> None:
        for name in RUNNING:
            found = self.stack.inspect(name)
            host = found["HostConfig"]
            expect(host["ReadonlyRootfs"] is True, f"{name}: the root can be written")
            expect(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{name}: capabilities")
            expect("no-new-privileges:true" in host["SecurityOpt"], f"{name}: new privileges")
            wanted = {"api": "10001", "worker": "10001", "s3": "0"}.get(name, "999")
            for process in self._processes(name):
                who = f"{name}, {process['Name']}"
                users = set(process["Uid"].split())
                expect(users == {wanted}, f"{who}: runs as {users}, not {wanted}")
                for kind in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
                    expect(process[kind] == NOTHING, f"{who}: {kind} is {process[kind]}")
                expect(process["NoNewPrivs"] == "1", f"{who}: may get new privileges")
            wrote = self.engine.try_run(
                f"docker compose exec -T {name} sh -c 'echo > /written'", folder=self.clone
            )
            expect("Read-only file system" in wrote.stdout, f"{name}: {wrote.stdout}")
        ready = json.loads(self.engine.run("curl --silent --fail http://127.0.0.1:8002/readyz"))
        self.facts.append(f"what the kernel keeps from runners: {ready['sandbox']}")

    def _processes(self, name: str) -> list[dict[str, str]]:
        """Every process of a container, as its kernel shows it."""
        shown = self.stack.compose(
            f"exec -T {name} sh -c 'for each in /proc/[0-9]*; do cat $each/status || true; done'"
        )
        found = [
            dict(re.findall(r"^(\w+):[ \t]*(.*)$", "Name:" + each, re.MULTILINE))
            for each in re.split(r"^Name:", shown, flags=re.MULTILINE)[1:]
        ]
        expect(len(found) > 1, f"{name} shows {len(found)} processes")
        return found

    def check_secrets(self) -> None:
        folder = self.clone / "secrets"
        expect(folder.stat().st_mode & 0o777 == 0o700, "secrets/ is open to others")
        values = {path.name: path.read_text().strip() for path in folder.iterdir()}
        for path in folder.iterdir():
            mode = 0o600 if path.name == "api_key" else 0o644  # that one is mounted nowhere
            expect(path.stat().st_mode & 0o777 == mode, f"mode of {path.name}")
        for name in RUNNING:
            there = set(self.stack.compose(f"exec -T {name} ls /run/secrets").split())
            listed = set(compose()["services"][name]["secrets"])
            expect(there == listed, f"{name} has the secrets {there}, not {listed}")
            shown = json.dumps(self.stack.inspect(name))
            for secret, value in values.items():
                expect(value not in shown, f"`docker inspect` of {name} shows {secret}")

    def first_job(self) -> None:
        said = self.stack.run(blocks("One host")[1])
        job = json.loads(said[said.index("{") :])["job"]["id"]
        self.stack.wait_for(job, "succeeded")
        self.stack.check_pictures(job)
        self.jobs.append(job)

    def model_list(self) -> None:
        listed = self.stack.run(
            "export DF_API_KEY=$(cat secrets/api_key)\ndocker compose run --rm -T model list"
        )
        expect("dreamforge-demo" in listed, f"`model list` says:\n{listed}")

    def drain(self) -> None:
        job = self.stack.create("a red apple", **LONG_JOB)
        self.stack.wait_for(job, "running")
        self.stack.compose("stop worker", timeout_s=700)
        code = self.stack.inspect("worker")["State"]["ExitCode"]
        expect(code == 0, f"the worker that was stopped ended with {code}")
        self._only_json("worker")
        self.stack.compose("start worker")
        self.stack.wait_for(job, "succeeded")
        self.stack.check_pictures(job)

    def _only_json(self, name: str) -> None:
        # Not by Compose, which clears the terminal's line before each of its own.
        log = self.stack.run(f"docker logs $(docker compose ps --all --quiet {name}) 2>&1")
        for line in log.splitlines():
            try:
                json.loads(line)
            except ValueError:
                raise Broken(f"a line in the log of {name} is not JSON: {line}") from None

    def _killed(self, name: str) -> Callable[[], None]:
        def step() -> None:
            job = self.stack.create("a green apple", **LONG_JOB)
            self.stack.wait_for(job, "running")
            self.stack.kill(name)
            self.stack.wait_healthy()
            self.stack.wait_for(job, "succeeded")
            self.stack.check_pictures(job)

        return step

    def restart_engine(self) -> None:
        self.engine.restart()
        self.stack.wait_healthy()
        self.stack.check_pictures(self.jobs[0])
        self.stack.draw("a red apple")

    def upgrade(self) -> None:
        """The commands of the page, after a commit that changes a source file of both services."""
        before = {name: self._layers(name) for name in OURS}
        self.engine.run(
            "git clone --quiet origin change && cd change"
            " && echo '# A release.' >> src/shared/states.py"
            " && git -c user.name=walk -c user.email=walk@localhost commit --quiet --all -m next"
            " && git push --quiet origin HEAD && rm -rf ../change",
            folder=self.engine.work,
        )
        job = self.stack.create("a blue heart", **LONG_JOB)
        self.stack.wait_for(job, "running")
        self.stack.run(blocks("Upgrades")[0], timeout_s=1800)
        self.stack.wait_for(job, "succeeded")
        self.stack.check_pictures(job)
        self.stack.check_pictures(self.jobs[0])
        for name in OURS:
            after = self._layers(name)
            new = [layer for layer in after if layer not in before[name]]
            expect(len(new) == 1, f"an upgrade of {name} brings {len(new)} layers")

    def _layers(self, name: str) -> list[str]:
        found = json.loads(self.engine.run(f"docker image inspect dreamforge-{name}:{VERSION}"))
        layers: list[str] = found[0]["RootFS"]["Layers"]
        return layers

    def second_worker(self) -> None:
        """On this engine too, with folders and addresses as on another host."""
        address = self.engine.run(
            "ip -oneline route get 1.1.1.1 | sed 's/.* src \\([0-9.]*\\) .*/\\1/'"
        ).strip()
        (private,) = blocks("Several hosts", "yaml")
        (self.clone / "compose.private.yaml").write_text(private.replace("10.0.0.1", address))
        opened, started = blocks("Several hosts")
        self.stack.run(opened)
        other = self.clone.parent / "other"
        self.engine.run("git clone --quiet origin other", folder=self.engine.work)
        away = Stack(self.engine, other)
        # Beside the first worker, which has the port.
        (other / "port.yaml").write_text(
            'services: { worker: { ports: !override ["127.0.0.1:8012:8002"] } }\n'
        )
        files = "--file deploy/compose.worker.yaml"
        for old, new in {
            "scp FIRST:dreamforge": f"cp {self.engine.inside(self.clone)}",
            "10.0.0.1": address,
            files: f"{files} --file port.yaml",
            "download hf:OWNER/NAME": "import /opt/dreamforge/models/sd/dreamforge-demo@1",
        }.items():
            expect(old in started, f"the page has no `{old}` below `Several hosts`")
            started = started.replace(old, new)
        try:
            away.run(started)
            self.stack.compose("stop worker", timeout_s=700)
            self.stack.draw("a red apple")  # by the other worker: there is no one else
        finally:
            down = "down --volumes --timeout 60"
            away.run(f"DF_S3_ENDPOINT=- docker compose {files} --file port.yaml {down}")
            self.stack.compose("up --detach --wait")
        self.stack.draw("a red apple")

    def backup(self) -> None:
        self.stack.run(blocks("Backups")[0])
        sizes = {
            name: (self.clone / name).stat().st_size for name in ("dreamforge.dump", "s3.tar.gz")
        }
        expect(all(sizes.values()), f"a backup is empty: {sizes}")

    def restore(self) -> None:
        """Into empty volumes: all that was there is removed first."""
        self.stack.compose("down --volumes --timeout 60")
        said = self.stack.run(blocks("Backups")[1])
        expect("warn" not in said.lower(), f"a restored volume warns:\n{said}")
        for job in self.jobs:
            self.stack.check_pictures(job)
        self.stack.compose("run --rm -T model import /opt/dreamforge/models/sd/dreamforge-demo@1")
        self.stack.draw("a red apple")

    def gpu_file(self) -> None:
        command = blocks("A GPU, by CDI")[0].splitlines()[1]
        ran = self.engine.try_run(command, folder=self.clone)
        expect(ran.returncode != 0, "a GPU that is not there was given to the worker")
        expect("nvidia.com/gpu=all" in ran.stdout, f"the refusal does not name it:\n{ran.stdout}")
        self.facts.append(f"without a GPU: {ran.stdout.strip().splitlines()[-1]}")
        self.stack.compose("up --detach --wait")
        self.stack.draw("a red apple")

    def release(self) -> None:
        """In a clone without the walk's files: a release is made of a clean tree."""
        self.engine.run("git clone --quiet origin release", folder=self.engine.work)
        folder = self.engine.work / "release"
        self.engine.run("make release", folder=folder, timeout_s=2 * BUILD_S)
        self.facts += (folder / "dist/SHA256SUMS").read_text().splitlines()
        self.facts += (folder / "dist/images.txt").read_text().splitlines()


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Broken(otherwise)
