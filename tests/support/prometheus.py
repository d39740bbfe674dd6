"""A real Prometheus that scrapes running parts, on a port of loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.support.worker_process import free_port, until

PROGRAM = shutil.which("prometheus")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that serves; `client` asks its API."""

    client: httpx.Client

    def names(self) -> set[str]:
        """Of every series that it has scraped."""
        answer = self.client.get("/api/v1/label/__name__/values")
        return set(answer.json()["data"])

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Fails where the expression is not understood."""
        answer = self.client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextmanager
def scraping(folder: Path, targets: dict[str, str]) -> Iterator[Prometheus]:
    """Scrapes each job's target (host:port) every second."""
    assert PROGRAM is not None, "it is installed"
    folder.mkdir()
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [target]}]}
        for job, target in targets.items()
    ]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([PROGRAM, *arguments], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            until(lambda: _is_ready(client), "Prometheus serves")
            yield Prometheus(client)
    finally:
        running.terminate()
        running.wait(timeout=30)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
