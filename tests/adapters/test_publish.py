"""Publishing: what would be sent is listed; what is sent goes over HTTP to a server of this test, never elsewhere."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenhand.adapters.publish import KOHYA_NAME, prepare
from evenhand.evaluation.overlap import write_captions
from tests.adapters.test_lora import CARD
from tests.adapters.variants import trained
from tests.report.full_folder import full_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "publish_adapter.py"
REPO = "somebody/even-handed-mechanics"
FILES = ["README.md", "captions.json", "card.json", KOHYA_NAME, "pytorch_lora_weights.safetensors"]


@pytest.fixture
def adapter(sd, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    trained(sd, "plain").save(folder, CARD)
    write_captions(folder, {"train": ["a mechanic"]})
    return folder


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload uses; what it was sent is kept in ``requests``."""

    requests: list[tuple[str, Any]]

    def _answer(self, content: object, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.requests.append((f"GET {self.path}", None))
        self._answer({"sha": "0" * 40, "siblings": [], "id": REPO})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((f"POST {self.path.partition('?')[0]}", body))
        if self.headers.get("Authorization") != "Bearer hf_ofthistest":
            return self._answer({"error": "Invalid username or password."}, 401)
        host = f"http://{self.headers['Host']}"
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._answer({"files": modes})
        if "/commit/" in self.path:
            address = {"commitUrl": f"{host}/{REPO}/commit/1", "commitOid": "1" * 40, "success": True}
            return self._answer(address)
        return self._answer({"url": f"{host}/{REPO}", "id": REPO, "errors": [], "warnings": []})

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    requests: list[tuple[str, Any]] = []
    handler = type("ThisHub", (Hub,), {"requests": requests})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


def publish(folder: Path, address: str, *overrides: str, token: str = "hf_ofthistest") -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": token,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    arguments = [sys.executable, str(SCRIPT), "adapter=adapter", f"repo={REPO}", "license=openrail++", *overrides]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def sent_files(requests: list[tuple[str, Any]]) -> dict[str, bytes]:
    (body,) = [body for what, body in requests if "/commit/" in what]
    lines = [json.loads(line) for line in body.decode().splitlines()]
    return {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }


def test_without_being_told_nothing_is_sent_and_every_file_is_listed_with_its_size(adapter, tmp_path, hub) -> None:
    address, requests = hub
    code, out, err = publish(tmp_path, address)
    assert code == 0, err
    assert requests == []
    assert f"would upload to {REPO} (private):" in out
    assert [line.split()[-1] for line in out.splitlines() if " bytes  " in line] == FILES
    size = (adapter / "pytorch_lora_weights.safetensors").stat().st_size
    assert f"{size:,} bytes" in out
    assert "license: openrail++" in out
    assert out.rstrip().endswith("nothing was sent (dry_run=false sends it)")


def test_what_is_sent_is_what_was_listed_byte_for_byte(adapter, tmp_path, hub) -> None:
    address, requests = hub
    code, out, err = publish(tmp_path, address, "dry_run=false")
    assert code == 0, err
    assert f"published: {address}/{REPO}/commit/1" in out
    files = sent_files(requests)
    assert sorted(files) == FILES
    for name in ("pytorch_lora_weights.safetensors", "card.json", "captions.json"):
        assert files[name] == (adapter / name).read_bytes()
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (head["license"], head["base_model"]) == ("openrail++", CARD.base_model)
    created = next(json.loads(body) for what, body in requests if what == "POST /api/repos/create")
    assert "private" in (created.get("visibility"), "private" if created.get("private") else "public")
    assert (created["organization"], created["name"]) == tuple(REPO.split("/"))


def test_a_refusal_of_the_hub_is_one_line(adapter, tmp_path, hub) -> None:
    address, _ = hub
    code, out, err = publish(tmp_path, address, "dry_run=false", token="hf_another")
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"{REPO} was not uploaded" in errors[0]
    assert "published" not in out


@pytest.mark.parametrize("repo", ["nobody", "a/b/c", "../x", "a/b c", "a/-b", "a/b--c"])
def test_what_is_no_repository_is_refused(adapter, tmp_path, repo) -> None:
    with pytest.raises(ValueError, match="repo must be <user or organisation>/<name>"):
        prepare(adapter, tmp_path / "up", repo=repo, license="mit", evaluation=None, with_kohya=False)
    assert not (tmp_path / "up").exists()


def test_weights_that_are_not_the_cards_are_refused(adapter, tmp_path) -> None:
    card = json.loads((adapter / "card.json").read_text())
    (adapter / "card.json").write_text(json.dumps({**card, "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="card.json is of weights 000000000000, but they are"):
        prepare(adapter, tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)


def test_a_base_that_only_this_machine_has_is_refused(sd, tmp_path) -> None:
    trained(sd, "plain").save(tmp_path / "adapter", replace(CARD, base_model=str(tmp_path / "models" / "mine")))
    with pytest.raises(ValueError, match="base_model='mine', a folder of one machine"):
        prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)


def test_a_dora_is_published_without_the_file_that_others_would_misread(sd, tmp_path) -> None:
    trained(sd, "dora").save(tmp_path / "adapter", CARD)
    with pytest.raises(ValueError, match="with_kohya=false"):
        prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=True)
    upload = prepare(tmp_path / "adapter", tmp_path / "up", repo=REPO, license="mit", evaluation=None, with_kohya=False)
    assert KOHYA_NAME not in [name for name, _, _ in upload.files]


def test_an_evaluation_of_this_adapter_goes_on_the_card_and_one_of_another_is_refused(adapter, tmp_path) -> None:
    from evenhand.files import sha256_file
    from evenhand.report.render import write_report

    other = full_folder(tmp_path / "run")
    write_report(other)
    arguments: dict[str, Any] = {"repo": REPO, "license": "mit", "evaluation": other, "with_kohya": False}
    with pytest.raises(ValueError, match="measured adapter .*, but this one is"):
        prepare(adapter, tmp_path / "up", **arguments)
    snippet = (other / "card_snippet.yaml").read_text()
    measured = yaml.safe_load(snippet)["model-index"][0]["results"][0]["dataset"]["args"]["adapter_sha256"]
    (other / "card_snippet.yaml").write_text(
        snippet.replace(measured, sha256_file(adapter / "pytorch_lora_weights.safetensors"))
    )
    prepare(adapter, tmp_path / "up", **arguments)
    assert "| heldout |" in (tmp_path / "up" / "README.md").read_text()
    with pytest.raises(ValueError, match="has no card_snippet.yaml"):
        prepare(adapter, tmp_path / "up", **{**arguments, "evaluation": tmp_path})
