"""A model hub on loopback, with a second host that holds the large files, and its bad days."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
REPO = "maker/small-model"


@dataclass
class Hub:
    """What is served, and how badly. Change the fields between requests."""

    files: dict[str, bytes]
    url: str = ""
    cdn_url: str = ""
    gated: bool = False
    html: bool = False
    cut_bytes: int = 0  # the connection of a large file is cut after so many
    refusals: list[int] = field(default_factory=list)  # statuses, one per request, then all is well
    changed: dict[str, bytes] = field(default_factory=dict)  # served instead of what is announced
    etags: Iterator[str] | None = None
    # (host, path, authorization, range) of each request
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Hub:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({p.relative_to(folder).as_posix(): p.read_bytes() for p in paths})

    def large(self, path: str) -> bool:
        return path.endswith(".safetensors")

    def listing(self) -> bytes:
        siblings = []
        for path, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": path, "size": len(content), "blobId": blob}
            if self.large(path):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        card = {"license": "mit"}
        return json.dumps(
            {"id": REPO, "sha": COMMIT, "siblings": siblings, "cardData": card}
        ).encode()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub, host))
        for host in ("hub", "cdn")
    ]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, host: str, *arguments: object) -> None:
        self.hub, self.host = hub, host
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        seen = (self.host, path, headers.get("Authorization"), headers.get("Range"))
        self.hub.seen.append(seen)
        if path.startswith(f"/api/models/{REPO}"):
            self._send(200, self.hub.listing(), {"Content-Type": "application/json"})
            return
        name = path.split(f"/resolve/{COMMIT}/", 1)[-1].removeprefix("/")
        if name not in self.hub.files:  # the library asks for more than the model
            self._send(404, b"")
        elif self.hub.gated:
            self._send(403, b"no")
        elif self.hub.html:
            self._send(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
        elif self.hub.refusals:
            self._send(self.hub.refusals.pop(0), b"later", {"Retry-After": "0"})
        elif self.host == "hub" and self.hub.large(name):
            self._send(302, b"", {"Location": f"{self.hub.cdn_url}/{name}"})
        else:
            self._file(name)

    def _file(self, name: str) -> None:
        content = self.hub.changed.get(name, self.hub.files[name])
        etag = next(self.hub.etags) if self.hub.etags else '"one"'
        start, status, headers = 0, 200, {"ETag": etag}
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == etag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(status, content[start:], headers, cut=self.hub.large(name))

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = self.hub.cut_bytes if cut and self.hub.cut_bytes else len(body)
        try:
            self.wfile.write(body[:limit])
        except ConnectionError:
            return  # the other side was killed, which is a subject of these tests
