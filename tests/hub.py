"""A model hub on this machine: as much of its HTTP interface as an upload uses."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_ofthistest"

Requests = list[tuple[str, Any]]


class Hub(BaseHTTPRequestHandler):
    """What it was sent is kept in ``requests``."""

    requests: Requests

    def _answer(self, content: object, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.requests.append((f"GET {self.path}", None))
        self._answer({"sha": "0" * 40, "siblings": [], "id": "somebody/something"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((f"POST {self.path.partition('?')[0]}", body))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._answer({"files": modes})
        if "/commit/" in self.path:
            repo = self.path.removeprefix("/api/").partition("/commit/")[0].removeprefix("models/")
            address = {"commitUrl": f"{host}/{repo}/commit/1", "commitOid": "1" * 40, "success": True}
            return self._answer(address)
        return self._answer({"url": f"{host}/{self._repo(body)}", "id": self._repo(body), "errors": [], "warnings": []})

    def _repo(self, body: bytes) -> str:
        """The name of a repository that is to be created, with the kind in front as the hub's addresses have it."""
        asked = json.loads(body) if body.startswith(b"{") else {}
        kind = "datasets/" if asked.get("type") == "dataset" else ""
        return f"{kind}{asked.get('organization')}/{asked.get('name')}"

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def running_hub() -> Iterator[tuple[str, Requests]]:
    """A hub's address, and what it is sent."""
    requests: Requests = []
    handler = type("ThisHub", (Hub,), {"requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def run_with_hub(
    program: Path, *overrides: str, folder: Path, address: str, token: str = TOKEN
) -> tuple[int, str, str]:
    """Run a program for which the hub is the one at ``address``: its exit code, what it printed, what it complained."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": token,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    arguments = [sys.executable, str(program), *overrides]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def sent_files(requests: Requests) -> dict[str, bytes]:
    """The files of the one commit."""
    (body,) = [body for what, body in requests if "/commit/" in what]
    lines = [json.loads(line) for line in body.decode().splitlines()]
    return {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }


def created(requests: Requests) -> dict[str, Any]:
    """What the repository was asked to be."""
    return next(json.loads(body) for what, body in requests if what == "POST /api/repos/create")
