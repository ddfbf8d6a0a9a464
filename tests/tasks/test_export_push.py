"""An export to the hub: a server that plays the hub's part on this machine, asked by the hub's own client."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.tasks.exports import command, trained

from rearank.tasks.export import ExportError, ExportTask

pytest.importorskip("huggingface_hub")
TOKEN = "hf_a-token-that-nobody-has"
NAME = "somebody/my-reranker"


@dataclass
class FakeHub:
    """What it was asked, and what it holds."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path, authorization."""
    private: bool | None = None
    """Of the repository; ``None`` where it isn't there."""
    files: dict[str, bytes] = field(default_factory=dict)
    forbidden: str = ""
    """A part of the path that is answered 403."""
    url: str = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        self.asked.append((method, path, token))
        if token != f"Bearer {TOKEN}":
            return 401, {"error": f"bad token {token}"}
        if self.forbidden and self.forbidden in path:
            return 403, {"error": f"{token} may not write"}
        if path == "/api/whoami-v2":
            return 200, {"name": "somebody", "orgs": []}
        if path == "/api/repos/create":
            if self.private is not None:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/{NAME}"}
            given = json.loads(body)
            assert f"{given['organization']}/{given['name']}" == NAME
            self.private = given.get("visibility") == "private" or bool(given.get("private"))
            return 200, {"url": f"{self.url}/{NAME}"}
        if path == f"/api/models/{NAME}" and self.private is not None:
            return 200, {"id": NAME, "private": self.private, "tags": [], "downloads": 0, "likes": 0}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == f"/api/models/{NAME}/preupload/main":
            names = [one["path"] for one in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if path == f"/api/models/{NAME}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/{NAME}/commit/{'0' * 40}", "commitOid": "0" * 40}
        return 404, {"error": f"{path} isn't played"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, token = self.path.partition("?")[0], self.headers.get("Authorization", "")
            status, content = fake.answer(self.command, path, body, token)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _reply  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield fake
    server.shutdown()
    server.server_close()


def push(run: Any) -> None:
    ExportTask().run(run)


def test_everything_goes_to_a_private_repository(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, f"export.push={NAME}")
    push(run)
    folder = run.folder / "export"
    assert hub.private is True
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert f"uploaded: {hub.url}/{NAME}" in capsys.readouterr().out
    assert f'path="{NAME}"' in (folder / "README.md").read_text(), "the card says where it lies"
    assert "# my-reranker\n" in (folder / "README.md").read_text()
    assert not any(TOKEN.encode() in path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    push(run)  # once more: the repository is there
    assert hub.private is True


def test_a_public_repository_is_never_taken_for_a_private_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.private = False
    with pytest.raises(ExportError, match=r"everybody can read it; set export\.private=false"):
        push(trained(tmp_path, f"export.push={NAME}"))
    assert hub.files == {}
    push(command(tmp_path, f"export.push={NAME}", "export.private=false"))
    assert "model.safetensors" in hub.files


def test_who_is_not_logged_in_is_told_before_anything_is_made(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, f"export.push={NAME}")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ExportError, match=r"nobody is logged in .*`hf auth login`.*HF_TOKEN"):
        push(run)
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_another-one")
    with pytest.raises(ExportError, match=r"who is logged in failed: Invalid user token.*log in again") as caught:
        push(run)
    assert hub.asked == [("GET", "/api/whoami-v2", "Bearer hf_another-one")]
    assert "hf_" not in str(caught.value)
    assert not (run.folder / "export").exists()


@pytest.mark.parametrize(
    ("forbidden", "what"),
    [("repos/create", "making the repository"), ("preupload", "uploading"), ("commit", "uploading")],
)
def test_what_the_hub_refuses_is_one_line(hub: FakeHub, tmp_path: Path, forbidden: str, what: str) -> None:
    hub.forbidden = forbidden
    run = trained(tmp_path, f"export.push={NAME}")
    with pytest.raises(ExportError, match=rf"export\.push={NAME}: {what} failed: .*may write there") as caught:
        push(run)
    assert "\n" not in str(caught.value)
    assert not re.search("hf_a", f"{caught.value!r} {caught.value.__cause__!r}"), "no token, however it came there"
    assert (run.folder / "export" / "README.md").is_file(), "which the same command uploads"
    hub.forbidden = ""
    push(run)
    assert hub.files.keys() == {path.name for path in (run.folder / "export").iterdir()}


def test_a_hub_that_is_not_there(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match="see whether the hub can be reached"):
        push(trained(tmp_path, f"export.push={NAME}"))
