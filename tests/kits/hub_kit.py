"""A stand-in for the Hub on the loopback device: it speaks the HTTP that the client huggingface_hub speaks.

Repositories are commits {path: content} in memory. Files of BINARY take the way of large files (preupload, LFS batch, PUT,
verify), others come inside the commit; downloads of large files are redirected, with the headers that the Hub gives.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BINARY = (".safetensors", ".png", ".webp", ".log")
TOKEN = "hf_TheOwnersSecretToken"
READER = "hf_AReadersToken"


@dataclass
class Repo:
    """commits: {hash: {path: content}}, the newest last. private: only its owner may know of it."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        self.messages.append(message)
        listing = repr((len(self.commits), sorted((name, blob_id(data)) for name, data in files.items())))
        name = hashlib.sha1(listing.encode()).hexdigest()
        self.commits[name] = files
        return name


@dataclass
class Hub:
    """The server's content and the requests that it received. cut: paths at whose content it breaks off. status: of every reply."""

    url: str = ""
    storage: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    status: int = 0
    problems: list[str] = field(default_factory=list)

    def files(self, name: str) -> dict[str, bytes]:
        return self.repos[name].commits[self.repos[name].head]


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Answer(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.storage = f"http://localhost:{server.server_port}"  # another host for the client, as that of large files is
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
        head = self.headers.get("Authorization", "")
        self.token = head.removeprefix("Bearer ") or None
        self.hub.tokens.add(self.token)
        try:
            if self.hub.status:
                raise _Answer(self.hub.status)
            for method, pattern, handle in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return handle(self, *match.groups())
            raise _Answer(404, message="no such route")
        except _Answer as answer:
            headers = {"X-Error-Code": answer.code, "X-Error-Message": answer.message}
            self._send(json.dumps({"error": answer.message}).encode(), answer.status, headers)

    def _chunks(self) -> bytes:
        data = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            size = int(self.rfile.readline(), 16)
            data += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        return data

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _repo(self, name: str, *, write: bool = False) -> Repo:
        """The repository, if the one who asks may do this with it; the Hub does not tell strangers what is private."""
        if self.token not in (None, TOKEN, READER):
            raise _Answer(401, message="Invalid credentials in Authorization header")
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token != TOKEN):
            raise _Answer(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if write and self.token != TOKEN:
            raise _Answer(403, message="You don't have the rights to create a commit") if self.token else _Answer(401)
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        if revision == "main" and repo.commits:
            return repo.head
        if revision not in repo.commits:
            raise _Answer(404, "RevisionNotFound", "Invalid rev id")
        return revision

    # ---- what the client asks ----

    def create(self) -> None:
        if self.token != TOKEN:
            raise _Answer(403 if self.token else 401, message="You don't have the rights to create a model")
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            return self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        self.hub.repos[name].commit({".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self) -> None:
        import yaml  # the client requires it

        text = json.loads(self.body)["content"]
        header = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
        errors = [] if isinstance(header, dict) else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, name: str, revision: str = "main") -> None:
        repo = self._repo(name)
        commit = self._commit_of(repo, revision)
        files = [{"rfilename": path} for path in repo.commits[commit]]
        self._json({"id": name, "sha": commit, "private": repo.private, "siblings": files})

    def tree(self, name: str, revision: str) -> None:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)]
        self._json([{"type": "file", "path": p, "size": len(d), "oid": blob_id(d)} for p, d in files.items()])

    def preupload(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        there = repo.commits[self._commit_of(repo, revision)]
        answer = []
        for file in json.loads(self.body)["files"]:
            path, data = file["path"], there.get(file["path"])
            large = path.endswith(BINARY)
            oid = None if data is None else sha256(data) if large else blob_id(data)
            answer.append(
                {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._json({"files": answer})

    def batch(self, name: str) -> None:
        self._repo(name, write=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.storage}/put/{one['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            objects.append(one if one["oid"] in self.hub.large else {**one, "actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if self.token is not None:
            self.hub.problems.append("the token went to the storage of large files")
        if sha256(self.body) != oid:
            raise _Answer(400, message="hash differs")
        self.hub.large[oid] = self.body
        self._send(b"")

    def verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise _Answer(400, message="not there")
        self._json({})

    def commit(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        files, title = dict(repo.commits[self._commit_of(repo, revision)]), ""
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise _Answer(400, message=key)
        oid = repo.commit(files, title)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        commit = self._commit_of(repo, revision)
        data = repo.commits[commit].get(path)
        if data is None:
            raise _Answer(404, "EntryNotFound", "Entry not found")
        head = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.endswith(BINARY):
            oid = sha256(data)
            self.hub.large.setdefault(oid, data)
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            location = f"{self.hub.storage}/cdn/{oid}/{path}"
            return self._send(b"", 302, {**head, **linked, "Location": location, "ETag": f'"{blob_id(data)}"'})
        self._content(path, data, {**head, "ETag": f'"{blob_id(data)}"'})

    def large_file(self, oid: str, path: str) -> None:
        if self.token is not None:
            self.hub.problems.append("the token went to the storage of large files")
        self._content(path, self.hub.large[oid], {"ETag": f'"{oid}"'})

    def _content(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        if path in self.hub.cut and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.close_connection = True
            return
        self._send(data, 200, headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{_NAME}", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/revision/(.+)", _Handler.info),
    ("GET", rf"/api/models/{_NAME}/tree/([^/]+)/?", _Handler.tree),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/put/(\w+)", _Handler.put),
    ("POST", r"/verify", _Handler.verify),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET HEAD", r"/cdn/(\w+)/(.+)", _Handler.large_file),
]
