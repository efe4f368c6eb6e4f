"""A hub on 127.0.0.1 that gives away one model, in as many commits as it has been given."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class ModelHub:
    """Use as a context manager; then ``endpoint`` is its address.

    ``commits`` maps a commit's id to its files, ``names`` branches and tags to commits, and
    ``asked`` are the paths of all requests.
    """

    def __init__(self, hub_id: str) -> None:
        self.hub_id = hub_id
        self.commits: dict[str, dict[str, bytes]] = {}
        self.names: dict[str, str] = {}
        self.asked: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "ModelHub":
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, folder: Path, *names: str) -> str:
        """Take the files of ``folder`` as a new commit, which ``names`` mean from now on."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        whole = hashlib.sha1(b"".join(name.encode() + data for name, data in files.items()))
        commit = whole.hexdigest()
        self.commits[commit] = files
        self.names |= dict.fromkeys(names, commit)
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: ModelHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def _respond(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(path)
        about, files = f"/api/models/{self.hub.hub_id}", f"/{self.hub.hub_id}/resolve/"
        if path == about or path.startswith(f"{about}/revision/"):
            name = path.removeprefix(about).removeprefix("/revision/") or "main"
            commit = self._commit(name)
            listed = [{"rfilename": file} for file in self.hub.commits.get(commit, {})]
            content = json.dumps(
                {"id": self.hub.hub_id, "sha": commit, "siblings": listed}
            ).encode()
            self._answer(content if listed else None, commit, with_body)
        elif path.startswith(f"{about}/tree/"):  # of subfolders: there are none
            self._answer(b"[]", "", with_body)
        elif path.startswith(files):
            name, _, file = path.removeprefix(files).partition("/")
            commit = self._commit(name)
            self._answer(self.hub.commits.get(commit, {}).get(file), commit, with_body)
        else:
            self._answer(None, "", with_body)

    def _commit(self, name: str) -> str:
        return self.hub.names.get(name, name)

    def _answer(self, content: bytes | None, commit: str, with_body: bool) -> None:
        self.send_response(404 if content is None else 200)
        if content is None and commit not in self.hub.commits:
            self.send_header("X-Error-Code", "RevisionNotFound")
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """No lines on the terminal."""
