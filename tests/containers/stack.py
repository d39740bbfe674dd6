"""The stack in containers, as the walk asks it: by its API, by `docker`, and by its processes."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from tests.containers.engine import Broken, Engine

OURS = ("api", "worker")
RUNNING = ("api", "worker", "postgres", "redis", "s3")
ANSWER_S = 120.0
PICTURE_S = 300.0
MODEL_S = 30.0


class Stack:
    """The compose project of a clone, started from its folder."""

    def __init__(self, engine: Engine, clone: Path) -> None:
        self.engine, self.clone = engine, clone

    def run(self, script: str, *, timeout_s: float = 900.0) -> str:
        return self.engine.run(script, folder=self.clone, timeout_s=timeout_s)

    def compose(self, words: str, *, timeout_s: float = 900.0) -> str:
        return self.run(f"docker compose {words}", timeout_s=timeout_s)

    def ask(self, path: str, *options: str) -> Any:
        """A request to the API with the key; the parsed answer."""
        words = " ".join(options)
        return json.loads(
            self.run(
                "curl --silent --show-error --fail-with-body --max-time 30"
                ' --header "Authorization: Bearer $(cat secrets/api_key)"'
                f" {words} http://127.0.0.1:8001{path}"
            )
        )

    def create(self, prompt: str, **fields: Any) -> str:
        """Create a job, once a worker has found the model: it looks for new ones now and then, and
        the command that brings one in waits for the first worker only."""
        body = json.dumps({"type": "generate", "prompt": prompt, **fields})
        options = "--header 'Content-Type: application/json'", f"--data '{body}'"
        deadline = time.monotonic() + MODEL_S
        while True:
            try:
                return str(self.ask("/v1/jobs", *options)["job"]["id"])
            except Broken as error:
                if "model_unavailable" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self, job: str) -> str:
        return str(self.ask(f"/v1/jobs/{job}")["status"])

    def wait_for(self, job: str, *statuses: str, timeout_s: float = PICTURE_S) -> str:
        """Wait until a job has one of these statuses. The API may be away meanwhile."""
        deadline = time.monotonic() + timeout_s
        seen = "nothing yet"
        while time.monotonic() < deadline:
            try:
                seen = self.status(job)
            except (Broken, ValueError) as error:
                seen = str(error)[-300:]
            if seen in statuses:
                return seen
            time.sleep(0.25)
        raise Broken(f"job {job} is not {' or '.join(statuses)} after {timeout_s:g} s: {seen}")

    def draw(self, prompt: str, **fields: Any) -> str:
        """A job from its create to its end, with the picture that its URL leads to."""
        job = self.create(prompt, **fields)
        self.wait_for(job, "succeeded")
        self.check_pictures(job)
        return job

    def check_pictures(self, job: str) -> int:
        """Fetch every picture by its URL, compare its bytes with its hash, count them."""
        pictures = self.ask(f"/v1/jobs/{job}/artifacts")["artifacts"]
        target = self.clone / "picture"
        for picture in pictures:
            self.run(f"curl --silent --fail --output picture '{picture['url']}'")
            found = hashlib.sha256(target.read_bytes()).hexdigest()
            if found != picture["sha256"]:
                raise Broken(f"picture of {job} has {found}, not {picture['sha256']}")
            target.unlink()
        if not pictures:
            raise Broken(f"job {job} has no pictures")
        return len(pictures)

    def wait_healthy(self, *names: str, timeout_s: float = ANSWER_S) -> None:
        deadline = time.monotonic() + timeout_s
        for name in names or RUNNING:
            seen = ""
            while seen != "running healthy":
                if time.monotonic() > deadline:
                    raise Broken(f"{name} is {seen or 'not there'} after {timeout_s:g} s")
                seen = self.engine.try_run(
                    "docker inspect --format '{{.State.Status}} {{.State.Health.Status}}'"
                    f" $(docker compose ps --all --quiet {name})",
                    folder=self.clone,
                ).stdout.strip()
                if seen != "running healthy":
                    time.sleep(0.25)

    def inspect(self, name: str, project: str = "") -> dict[str, Any]:
        (found,) = json.loads(
            self.run(f"docker inspect $(docker compose {project} ps --all --quiet {name})")
        )
        assert isinstance(found, dict)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to the first process of a container, past the engine: as the kernel would."""
        self.engine.run(f"kill -KILL {self.inspect(name)['State']['Pid']}")
