"""The part of the Hugging Face Hub's API that huggingface_hub uses to make, fill and read a repository, on loopback.

    with hub_server.Hub({"good": "org"}) as hub:  # token -> whose it is, who may write to the namespace of that name
        hub.url, hub.files("org/name"), hub.requests

Files live in memory by content. Endpoints, as huggingface_hub 1 and 2 call them: whoami-v2, repos/create,
validate-yaml, preupload, LFS batch and upload, commit (ndjson), model info, tree, paths-info and resolve with ETag and
Range. Uploads of the objects in ``hub.broken`` (sha256) lose their socket midway.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LFS_FROM = 10 << 10
"""Files of so many bytes, and safetensors, go by LFS."""


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """A server in a thread of its own."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # method and path, in order
        self.broken: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str) -> dict[str, bytes]:
        """What the newest commit holds."""
        return self.repos[repo].commits[-1][1]

    def count(self, method: str, pattern: str) -> int:
        """How many requests matched."""
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((method, path))
        body = b""
        if method == "PUT" and path.rpartition("/")[2] in self.hub.broken:
            self.rfile.read(100)  # some of it arrives
            self.close_connection = True
            self.connection.close()
            return
        if length := int(self.headers.get("Content-Length") or 0):
            body = self.rfile.read(length)
        self.who = self.hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if self.headers.get("Authorization") and self.who is None:
            self._fail(401, "", "Invalid credentials in Authorization header")
            return
        for pattern, function in _ROUTES:
            if found := re.fullmatch(pattern, path):
                function(self, *found.groups(), body) if method in ("POST", "PUT") else function(self, *found.groups())
                return
        self._fail(404, "", f"no such endpoint {path}")

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), headers | ({"X-Error-Code": code} if code else {}))

    def _may_write(self, repo: str) -> bool:
        if self.who is None:
            self._fail(401, "", "Invalid username or password.")
        elif self.who != repo.partition("/")[0]:
            self._fail(403, "", f"{self.who} has no right to write to {repo}")
        else:
            return True
        return False

    def _readable(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit, or None after the refusal was sent; private repositories look as if they were not there."""
        known = self.hub.repos.get(repo)
        if known is None or (known.private and self.who != repo.partition("/")[0]):
            self._fail(404 if self.who else 401, "RepoNotFound", "Repository not found")
            return None
        commit = known.at(revision)
        if commit is None:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def whoami(self) -> None:
        if self.who is None:
            self._fail(401, "", "Invalid credentials in Authorization header")
        else:
            self._json({"type": "user", "name": self.who, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or self.who}/{asked['name']}"
        if not self._may_write(repo):
            return
        if repo in self.hub.repos:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409)
            return
        self.hub.repos[repo] = Repo(bool(asked.get("private")) or asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo})

    def validate_yaml(self, body: bytes) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str, body: bytes) -> None:
        if not self._may_write(repo):
            return
        rows = []
        for file in json.loads(body)["files"]:
            large = file["size"] >= LFS_FROM or file["path"].endswith(".safetensors")
            mode = "lfs" if large else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self._json({"files": rows, "commitOid": self.hub.repos[repo].commits[-1][0]})

    def lfs_batch(self, repo: str, body: bytes) -> None:
        if not self._may_write(repo):
            return
        rows = []
        for asked in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            row = {"oid": asked["oid"], "size": asked["size"]}
            rows.append(row if asked["oid"] in self.hub.objects else row | {"actions": upload})
        self._json({"transfer": "basic", "objects": rows})

    def lfs_put(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._fail(400, "", "content is not what its name says")
            return
        self.hub.objects[oid] = body
        self._send(200, b"", {})

    def commit(self, repo: str, revision: str, body: bytes) -> None:
        if not self._may_write(repo):
            return
        files = dict(self.hub.files(repo))
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        commits = self.hub.repos[repo].commits
        oid = hashlib.sha1(body + str(len(commits)).encode()).hexdigest()
        commits.append((oid, files))
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})

    def info(self, repo: str, revision: str | None = None) -> None:
        if found := self._readable(repo, revision or "main"):
            sha, files = found
            rows = [{"rfilename": name} for name in sorted(files)]
            private = self.hub.repos[repo].private
            self._json({"id": repo, "modelId": repo, "sha": sha, "private": private, "siblings": rows, "tags": []})

    def tree(self, repo: str, revision: str) -> None:
        if found := self._readable(repo, revision):
            self._json([_entry(name, content) for name, content in sorted(found[1].items())])

    def paths_info(self, repo: str, revision: str, body: bytes) -> None:
        if found := self._readable(repo, revision):
            wanted = json.loads(body)["paths"]
            self._json([_entry(name, found[1][name]) for name in wanted if name in found[1]])

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self._readable(repo, revision)
        if found is None:
            return
        sha, files = found
        if name not in files:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        content = files[name]
        headers = {"ETag": f'"{_etag(name, content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._send(206, content[start : end + 1], headers)
        else:
            self._send(200, content, headers)


def _is_lfs(name: str, content: bytes) -> bool:
    return len(content) >= LFS_FROM or name.endswith(".safetensors")


def _etag(name: str, content: bytes) -> str:
    """What git calls a blob, or what LFS calls an object."""
    if _is_lfs(name, content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if _is_lfs(name, content):
        row["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 130}
    return row


_NAME = r"([^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, Any], ...] = (
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (rf"/api/models/{_NAME}/preupload/([^/]+)", _Handler.preupload),
    (rf"/api/models/{_NAME}/commit/([^/]+)", _Handler.commit),
    (rf"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    (rf"/api/models/{_NAME}/paths-info/([^/]+)", _Handler.paths_info),
    (rf"/api/models/{_NAME}/revision/([^/]+)", _Handler.info),
    (rf"/api/models/{_NAME}", _Handler.info),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/lfs/([0-9a-f]+)", _Handler.lfs_put),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)
