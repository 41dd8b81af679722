"""Bundles to the hub and back, by a stand-in on loopback: no test asks the real one for anything."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from melanoma.errors import MelanomaError, UsageError
from melanoma.inference.bundle import SUMS, read_bundle
from melanoma.inference.hub import fetch_bundle
from melanoma.runs import Run

pytest.importorskip("huggingface_hub", reason="needs the extra hub")
NAME = "clinic/lesions"


class Hub(ThreadingHTTPServer):
    """As much of the hub's HTTP interface as creating, committing and fetching need."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.newest = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, files: dict[str, bytes]) -> str:
        self.newest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[self.newest] = files
        return self.newest


class Answering(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _say(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200) -> None:
        self._say(status, json.dumps(content).encode(), Content_Type="application/json")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(path)
        if not path.startswith(f"/{NAME}/resolve/"):
            self._json({"error": "not here"}, 404)
            return
        revision, _, file = path.removeprefix(f"/{NAME}/resolve/").partition("/")
        commit = hub.newest if revision == "main" else revision
        content = hub.commits.get(commit, {}).get(file)
        if content is None:
            wrong = "EntryNotFound" if commit in hub.commits else "RevisionNotFound"
            self._say(404, b"", X_Error_Code=wrong, X_Error_Message=f"{wrong}: {file}")
            return
        self._say(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)

    def do_PUT(self) -> None:
        self.server.large[self.path.rsplit("/", 1)[-1]] = self._body()
        self._say(200, b"")

    def do_POST(self) -> None:
        hub, path, body = self.server, self.path.split("?")[0], self._body()
        if path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self._json({"url": f"{hub.address}/{NAME}", "id": NAME})
        elif path == f"/api/models/{NAME}/preupload/main":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".onnx", ".npz")) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif path == f"/{NAME}.git/info/lfs/objects/batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/upload/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif path == f"/api/models/{NAME}/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"])
                if one["key"] == "file"
                else hub.large[one["value"]["oid"]]
                for one in lines
                if one["key"] in ("file", "lfsFile")
            }
            self._json({"commitUrl": f"{hub.address}/{NAME}/commit/x", "commitOid": hub.commit(files)})
        else:
            self._json({}, 200 if path == "/api/validate-yaml" else 404)


@pytest.fixture
def hub() -> Iterator[Hub]:
    standing = Hub()
    threading.Thread(target=standing.serve_forever, daemon=True).start()
    yield standing
    standing.shutdown()
    standing.server_close()


def melanoma(hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, for which the stand-in is the hub; large files go by plain HTTP, as it has no Xet."""
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_stand_in",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_ETAG_TIMEOUT": "2",
    }
    return subprocess.run(
        [sys.executable, "-m", "melanoma", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_a_bundle_goes_to_the_hub_and_answers_alike_from_there(
    hub: Hub, judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    pushed = melanoma(hub, tmp_path, "export", str(judged.folder), "--to", f"hf://{NAME}")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip().splitlines()[-1] == f"hf://{NAME}@{hub.newest}"
    assert hub.created[0]["visibility"] == "private"
    files, bundle = hub.commits[hub.newest], read_bundle(judged.bundle)
    assert set(files) == {*bundle.files, SUMS, "README.md"}
    assert all(files[name] == (judged.bundle / name).read_bytes() for name in (*bundle.files, SUMS))
    assert b"license: cc0-1.0" in files["README.md"]

    address = f"hf://{NAME}@{hub.newest}"
    by_hub = melanoma(hub, tmp_path, "predict", str(lesions[0]), "--model", address, "--json")
    assert by_hub.returncode == 0, by_hub.stderr
    by_folder = melanoma(hub, tmp_path, "predict", str(lesions[0]), "--model", str(judged.folder), "--json")
    assert json.loads(by_hub.stdout) == json.loads(by_folder.stdout)

    hub.commits.clear()  # what was fetched once is there without the hub
    hub.asked.clear()
    assert melanoma(hub, tmp_path, "predict", str(lesions[0]), "--model", address).returncode == 0
    assert not [path for path in hub.asked if path.endswith(".onnx")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda files: files.pop("model.json"), "model.json"),
        (lambda files: files.update({"model.json": b"{}"}), "differs from its hash"),
        (lambda files: files.update({SUMS: b"0  ../../outside.onnx\n"}), "no bundle"),
        (lambda files: files.update({SUMS: b"0  run.py\n"}), "no bundle"),
        (lambda files: files.update({SUMS: b"x" * 70_000}), "over 65,536 bytes"),
        (lambda files: files.pop(SUMS), SUMS),
    ],
)
def test_what_is_no_whole_bundle_is_refused_in_a_sentence(
    hub: Hub, judged: Run, lesions: list[Path], tmp_path: Path, spoil: Any, said: str
) -> None:
    files = {path.name: path.read_bytes() for path in judged.bundle.iterdir()}
    spoil(files)
    hub.commit(files)
    done = melanoma(hub, tmp_path, "predict", str(lesions[0]), "--model", f"hf://{NAME}")
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outside.onnx").exists()


def test_an_unknown_name_or_revision_is_one_sentence(
    hub: Hub, judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    hub.commit({path.name: path.read_bytes() for path in judged.bundle.iterdir()})
    for address in ("hf://clinic/other", f"hf://{NAME}@v9"):
        done = melanoma(hub, tmp_path, "predict", str(lesions[0]), "--model", address)
        assert done.returncode == 4
        assert f"{address} cannot be fetched" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address", ["hf://one", "hf:clinic/lesions", "hf://a/b/c", "hf://../x", "hf://a/b@", "hf://-/.."]
)
def test_what_is_no_address_is_said_before_anything_is_asked(address: str) -> None:
    with pytest.raises(UsageError, match="hf://owner/name"):
        fetch_bundle(address)


def test_without_the_package_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MelanomaError, match=r"melanoma\[hub\]"):
        fetch_bundle("hf://a/b")
