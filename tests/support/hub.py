"""A model hub on loopback, with a second host for the large files, and its faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.loopback import hosts, send

COMMIT = "c0ffee" + "0" * 34
REPO = "maker/small-model"


@dataclass
class Hub:
    """The files and the faults. Tests change the fields between requests."""

    files: dict[str, bytes]
    url: str = ""
    cdn_url: str = ""
    gated: bool = False
    html: bool = False
    cut_bytes: int = 0  # the connection of a large file breaks after so many
    refusals: list[int] = field(default_factory=list)  # a status per request, then 200
    # The content that is sent instead of the announced one.
    changed: dict[str, bytes] = field(default_factory=dict)
    etags: Iterator[str] | None = None
    # The first answers of the API: status, body, headers.
    api: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=lambda: {"license": "mit"})
    commit: str = COMMIT
    without: tuple[str, ...] = ()  # the fields of a file that the API leaves out
    repositories: tuple[str, ...] = (REPO,)  # all hold the same files
    lock: threading.Lock = field(default_factory=threading.Lock)
    together: threading.Barrier | None = None  # the cdn answers this many files together
    at_once: int = 0
    most_at_once: int = 0
    # (host, path, authorization, range) of each request
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Hub:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({p.relative_to(folder).as_posix(): p.read_bytes() for p in paths})

    def large(self, path: str) -> bool:
        return path.endswith(".safetensors")

    def listing(self, repository: str) -> bytes:
        siblings = []
        for path, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
            if self.large(path):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append({key: entry[key] for key in entry if key not in self.without})
        return json.dumps(
            {"id": repository, "sha": self.commit, "siblings": siblings, "cardData": self.card}
        ).encode()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    with hosts(("hub", "cdn"), partial(_respond, hub)) as urls:
        hub.url, hub.cdn_url = urls["hub"], urls["cdn"]
        yield hub


def _respond(hub: Hub, host: str, request: BaseHTTPRequestHandler) -> None:
    with hub.lock:
        hub.at_once += host == "cdn"
        hub.most_at_once = max(hub.most_at_once, hub.at_once)
    try:
        if hub.together is not None and host == "cdn":
            with suppress(threading.BrokenBarrierError):  # fewer requests were left
                hub.together.wait(2)
        _answer(hub, host, request)
    finally:
        with hub.lock:
            hub.at_once -= host == "cdn"


def _answer(hub: Hub, host: str, request: BaseHTTPRequestHandler) -> None:
    path = unquote(urlsplit(request.path).path)
    headers = request.headers
    hub.seen.append((host, path, headers.get("Authorization"), headers.get("Range")))
    if path.startswith("/api/models/"):
        _about(hub, request, path.removeprefix("/api/models/"))
        return
    name = path.split(f"/resolve/{hub.commit}/", 1)[-1].removeprefix("/")
    if name not in hub.files:  # the library also asks for other files
        send(request, 404, b"")
    elif hub.gated:
        send(request, 403, b"no")
    elif hub.html:
        send(request, 200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
    elif hub.refusals:
        send(request, hub.refusals.pop(0), b"later", {"Retry-After": "0"})
    elif host == "hub" and hub.large(name):
        send(request, 302, b"", {"Location": f"{hub.cdn_url}/{name}"})
    else:
        _file(hub, request, name)


def _about(hub: Hub, request: BaseHTTPRequestHandler, name: str) -> None:
    if hub.api:
        send(request, *hub.api.pop(0))
    elif name.partition("/revision/")[0] in hub.repositories:
        listing = hub.listing(name.partition("/revision/")[0])
        send(request, 200, listing, {"Content-Type": "application/json"})
    else:
        send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})


def _file(hub: Hub, request: BaseHTTPRequestHandler, name: str) -> None:
    content = hub.changed.get(name, hub.files[name])
    etag = next(hub.etags) if hub.etags else '"one"'
    start, status, headers = 0, 200, {"ETag": etag}
    requested = request.headers.get("Range")
    if requested and request.headers.get("If-Range") == etag:
        start, status = int(requested.removeprefix("bytes=").rstrip("-")), 206
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    cut = hub.cut_bytes if hub.large(name) and hub.cut_bytes else None
    send(request, status, content[start:], headers, cut_bytes=cut)
