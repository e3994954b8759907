"""A server that speaks as much of the hub's API as an upload needs, with large files in LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34


@dataclass(slots=True)
class Repo:
    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})


@dataclass(slots=True)
class Hub:
    """`refuse` maps a part of a path to the status that is answered there."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    refuse: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        refused = next((status for part, status in self.refuse.items() if part in path), None)
        if refused or (token != f"Bearer {TOKEN}" and not path.startswith("/store/")):
            return refused or 401, {"error": "you may not"}
        parts = path.strip("/").split("/")
        if method == "PUT":
            self.stored[parts[1]] = body
            assert hashlib.sha256(body).hexdigest() == parts[1]
            return 200, {}
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{self.url}/store/{each['oid']}"}} for each in wanted]
            return 200, {"objects": [{**each, "actions": act} for each, act in zip(wanted, actions, strict=True)]}
        repo = self.repos.get("/".join(parts[2:4]))
        if repo is None:
            return 404, {"error": "Repository not found"}
        if method == "GET":
            return 200, {"id": "/".join(parts[2:4]), "private": repo.private, "sha": "0" * 40}
        if parts[4] == "preupload":
            files = [
                {"path": each["path"], "shouldIgnore": False, "uploadMode": mode(each["path"])}
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if parts[4] == "branch":
            known = parts[5] in repo.branches
            repo.branches.setdefault(parts[5], dict(repo.branches["main"]))
            return (409, {"error": "Reference already exists"}) if known else (201, {})
        assert parts[4] == "commit"
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                repo.branches[parts[5]][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                repo.branches[parts[5]][value["path"]] = self.stored[value["oid"]]
        name = "/".join(parts[2:4])
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = {"url": f"{self.url}/{name}", "id": name, "name": name}
        if name in self.repos:
            return 409, {"error": "You already created this model repo", **url}
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repos[name] = Repo(private=bool(private))
        return 200, url


def mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def hub() -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            status, content = server.answer(self.command, path, self.headers.get("authorization", ""), body)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = reply  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Hub(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
