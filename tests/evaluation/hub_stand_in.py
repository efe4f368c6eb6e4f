"""A small hub on 127.0.0.1: the calls that an upload makes, kept in memory."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Use as a context manager; then ``endpoint`` is its address.

    ``files`` holds what the last commit of each path left, ``commits`` the messages in order.
    ``refusals`` maps a part of a path to the status and content to answer there.
    """

    def __init__(self, token: str, owner: str) -> None:
        self.token = token
        self.owner = owner
        self.repositories: dict[str, dict[str, Any]] = {}
        self.commits: list[str] = []
        self.files: dict[str, bytes] = {}
        self.refusals: dict[str, tuple[int, dict[str, Any]]] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.large[value["oid"]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if self._refused():
            return
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/commit/" in self.path:
            self.hub.commit([json.loads(line) for line in body.splitlines()])
            repository = self.path.removeprefix("/api/models").partition("/commit/")[0]
            address = self.hub.endpoint + repository
            answer = {"commitUrl": f"{address}/commit/{'0' * 40}", "commitOid": "0" * 40}
            self._answer(200, answer)
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        body = self._body()
        if self._refused():
            return
        name = self.path.removeprefix("/storage/")
        self.hub.large[name] = body
        self._answer(200 if hashlib.sha256(body).hexdigest() == name else 400, {})

    def do_GET(self) -> None:
        self._answer(404, {"error": "not found"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != self.hub.owner:
            self._answer(403, {"error": "no rights to this namespace"})
            return
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, asked)
        self._answer(409 if known else 200, {"url": f"{self.hub.endpoint}/{name}"})

    def _preupload(self, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            file | {"actions": {"upload": {"href": f"{self.hub.endpoint}/storage/{file['oid']}"}}}
            for file in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _refused(self) -> bool:
        for part, (status, content) in self.hub.refusals.items():
            if part in self.path:
                self._answer(status, content)
                return True
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """No lines on the terminal."""
