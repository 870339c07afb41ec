"""A small stand-in for the hub: what its HTTP interface has to answer for a push, a listing and a download."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Hub:
    """Repositories by kind and name, each a dictionary of files; `large` objects wait for their commit."""

    address: str = ""
    repos: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    refuse: int = 0
    """Status of every answer, where it is set."""

    def sha(self, files: dict[str, bytes]) -> str:
        found = hashlib.sha1()
        for name in sorted(files):
            found.update(name.encode() + hashlib.sha1(files[name]).digest())
        return found.hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(b"")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PUT = do_POST  # noqa: N815

    def answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.refuse:
            return self.send(self.hub.refuse, {"error": "no"})
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, body, **found.groupdict())
        return self.send(404, {"error": f"no route {path}"})

    def send(self, status: int, value: Any = None, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def files(self, kind: str, repo: str, revision: str | None = None) -> dict[str, bytes] | None:
        files = self.hub.repos.get((kind, repo))
        if files is None:
            self.send(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif revision not in (None, "main", self.hub.sha(files)):
            self.send(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
            return None
        return files

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or "someone"
        kind, repo = f"{asked.get('type', 'model')}s", f"{owner}/{asked['name']}"
        url = f"{self.hub.address}/{'datasets/' if kind == 'datasets' else ''}{repo}"
        status = 409 if (kind, repo) in self.hub.repos else 200
        self.hub.repos.setdefault((kind, repo), {})
        self.send(status, {"url": url})

    def valid(self, body: bytes) -> None:
        errors = [] if json.loads(body)["content"].startswith("---\n") else [{"message": "no metadata"}]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, body: bytes, kind: str, repo: str, revision: str | None = None) -> None:
        if (files := self.files(kind, repo, revision)) is not None:
            siblings = [{"rfilename": name} for name in sorted(files)]
            self.send(200, {"id": repo, "sha": self.hub.sha(files), "siblings": siblings, "private": False, "tags": []})

    def tree(self, body: bytes, kind: str, repo: str, revision: str) -> None:
        if (files := self.files(kind, repo, revision)) is not None:
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in sorted(files.items())
            ]
            self.send(200, listed)

    def preupload(self, body: bytes, kind: str, repo: str, revision: str) -> None:
        asked = [file["path"] for file in json.loads(body)["files"]]
        modes = [
            {
                "path": at,
                "uploadMode": "lfs" if at.endswith(("npz", "safetensors")) else "regular",
                "shouldIgnore": False,
            }
            for at in asked
        ]
        self.send(200, {"files": modes})

    def batch(self, body: bytes, **_: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.address}/upload/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.send(200, {})

    def commit(self, body: bytes, kind: str, repo: str, revision: str) -> None:
        if (files := self.files(kind, repo, revision)) is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        self.hub.commits.append(len(lines) - 1)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        sha = self.hub.sha(files)
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.address}/{repo}/commit/{sha}"})

    def download(self, body: bytes, repo: str, revision: str, name: str, kind: str | None = None) -> None:
        files = self.files("datasets" if kind else "models", repo, revision)
        if files is None:
            return
        if name not in files:
            self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        self.send(200, files[name], ETag=etag, X_Repo_Commit=self.hub.sha(files))


ROUTES: list[tuple[str, Any]] = [
    ("/api/repos/create", Handler.create),
    ("/api/validate-yaml", Handler.valid),
    (rf"/api/{REPO}", Handler.info),
    (rf"/api/{REPO}/revision/(?P<revision>.+)", Handler.info),
    (rf"/api/{REPO}/tree/(?P<revision>.+)", Handler.tree),
    (rf"/api/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"/api/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    (r"/(?:datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", Handler.batch),
    (r"/upload/(?P<oid>\w+)", Handler.upload),
    (r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.download),
]
