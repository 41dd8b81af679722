"""The list of bad inputs from row 24 to 27: requests and clients, model files, and pictures that are no lesions.

Each row once, as it comes from outside. Rows 1 to 15 are in `test_bad_inputs.py`, the others in `test_faults.py`.
"""

import http.client
import json
import pickle
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import serving
from starlette.testclient import TestClient
from test_gate import drawn
from test_hostile_models import network
from test_web import asked
from zoo import saved, scene, speckled

from melanoma.data.clutter import draw_clutter
from melanoma.data.synthetic import make_dataset
from melanoma.errors import MelanomaError
from melanoma.files import sha256
from melanoma.inference.bundle import SUMS, read_bundle
from melanoma.inference.predict import Predictor
from melanoma.runs import Run
from melanoma.web import forms
from melanoma.web.app import create_app

httpx2 = pytest.importorskip("httpx2", reason="the extra dev is not installed")
SOON_SECONDS = 1.0


@pytest.fixture(scope="module")
def client(judged: Run) -> Iterator[TestClient]:
    with TestClient(create_app(Predictor(judged.folder), largest_bytes=2**20)) as client:
        yield client


def test_row_24_a_request_that_is_wrong_is_a_problem_within_a_second(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, form = saved(scene(), "JPEG"), {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

    def chunked(size: int) -> Iterator[bytes]:  # without a length
        yield part
        for _ in range(size // 2**16):
            yield bytes(2**16)

    requests: list[tuple[dict[str, Any], int]] = [
        ({}, 415),
        ({"files": {"file": ("a.jpg", picture)}}, 422),
        ({"json": {"images": "a.jpg"}}, 415),
        ({"content": b"--y\r\n\r\n", "headers": form}, 400),
        ({"files": {"images": ("a.jpg", picture)}, "data": {f"f{n}": "1" for n in range(2000)}}, 400),
        ({"files": {"images": ("a.jpg", bytes(30 * 2**20))}}, 413),
        ({"content": chunked(30 * 2**20), "headers": form}, 413),
    ]
    for request, status in requests:
        begun = time.monotonic()
        response = client.post("/predict", **request)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] and time.monotonic() - begun < SOON_SECONDS
    (answer,) = client.post("/predict", files={"images": ("../../x", picture)}).json()["answers"]
    assert answer["name"] == "x"
    assert "breaks off" in client.post("/predict", content=part + picture, headers=form).json()["detail"]
    monkeypatch.setattr(forms, "BODY_SECONDS", 0.2)
    begun = time.monotonic()
    slowly = asked(client.app, [{"type": "http.request", "body": part, "more_body": True}])  # type: ignore[arg-type]
    assert slowly[0]["status"] == 408 and time.monotonic() - begun < SOON_SECONDS


def test_row_25_two_hundred_at_once_are_answered_or_told_when_and_a_service_that_ends_answers_what_it_began(
    judged: Run, lesions: list[Path]
) -> None:
    (alone,) = Predictor(judged.folder).answer(lesions[0], maps=False)
    picture = {"images": ("a.jpg", lesions[0].read_bytes())}
    with serving(judged.folder, "--queue", 8) as service:

        def ask(number: int) -> Any:
            with httpx2.Client(timeout=60) as client:
                if number % 10 == 9:  # who does not wait for an answer
                    with suppress(httpx2.TimeoutException):  # a busy service may say 503 within that time
                        client.post(f"{service.address}/predict", files=picture, timeout=0.001)
                    return None
                return client.post(f"{service.address}/predict", files=picture)

        with ThreadPoolExecutor(200) as pool:
            responses = [one for one in pool.map(ask, range(200)) if one is not None]
        assert {one.status_code for one in responses} <= {200, 503}
        assert all(int(one.headers["retry-after"]) >= 1 for one in responses if one.status_code == 503)
        scores = [one.json()["answers"][0]["score"] for one in responses if one.status_code == 200]
        assert len(scores) >= 8 and scores == pytest.approx([alone.score] * len(scores), abs=1e-5)
        address, body = urlsplit(service.address), httpx2.Request("POST", service.address, files=picture)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.putrequest("POST", "/predict")
        for name in ("content-type", "content-length"):
            connection.putheader(name, body.headers[name])
        connection.endheaders(body.read()[:100])
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        connection.send(body.read()[100:])
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["answers"][0]["score"] == pytest.approx(alone.score, abs=1e-5)
        connection.close()
        assert service.process.wait(30) == 0 and time.monotonic() - begun < 30


def test_row_26_a_model_that_would_run_something_is_refused_before_anything_runs(judged: Run, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    keras_file = tmp_path / "lambda.keras"
    with zipfile.ZipFile(keras_file, "w") as archive:
        config = {"class_name": "Lambda", "module": "os", "config": {"function": f"system('touch {ran}')"}}
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("../../slip.txt", "out")
    bomb = network(tmp_path / "bomb.onnx", *huge())
    outside = network(tmp_path / "outside.onnx", *elsewhere(tmp_path))
    for name, spoilt in (
        ("fold-0.onnx", keras_file.read_bytes()),
        ("fold-0.onnx", pickle.dumps(Harm())),
        ("fold-0.onnx", bomb.read_bytes()),
        ("fold-0.onnx", outside.read_bytes()),
        ("gate.npz", pickle.dumps(Harm())),
        ("gate.npz", keras_file.read_bytes()),
        ("model.json", b'{"class_name": "Lambda"}'),
    ):
        bundle = shutil.copytree(judged.bundle, tmp_path / str(len(list(tmp_path.iterdir()))))
        (bundle / name).write_bytes(spoilt)
        lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(bundle.iterdir()) if path.name != SUMS]
        (bundle / SUMS).write_text("".join(lines))
        begun = time.monotonic()
        with pytest.raises(MelanomaError) as caught:
            Predictor(bundle, few=True)
        assert "\n" not in str(caught.value) and time.monotonic() - begun < 5
    (judged_copy := shutil.copytree(judged.bundle, tmp_path / "more") / "extra.pkl").write_bytes(pickle.dumps(Harm()))
    assert read_bundle(judged_copy.parent).name == judged.name, "a file beside the bundle is never opened"
    assert not ran.exists() and not [*tmp_path.parent.rglob("slip.txt")]


def huge() -> list[Any]:
    """What asks for a terabyte."""
    from test_hostile_models import helper, onnx, summed

    shape = onnx.numpy_helper.from_array(np.array([2**40]))
    return [
        helper.make_node("Constant", [], ["n"], value=shape),
        helper.make_node("ConstantOfShape", ["n"], ["c"]),
        summed("c"),
    ]


def elsewhere(folder: Path) -> list[Any]:
    """Numbers that lie in another file."""
    from test_hostile_models import helper, onnx

    (folder / "secret.bin").write_bytes(bytes(4))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    return [helper.make_node("Constant", [], ["bomb"], value=tensor)]


def test_row_27_what_is_no_lesion_is_not_assessable_and_nearly_all_lesions_are(
    judged: Run, lesions: list[Path], client: TestClient
) -> None:
    predictor = Predictor(judged.folder)
    others = [
        *drawn(6),
        *draw_clutter(40, 128, seed=5),
    ]  # pages, faces, noise, walls, tissue; scenes, writing, balls ...
    told = predictor.answer(others, maps=False)
    turned_away = [one for one in told if one.status == "not assessable"]
    assert len(turned_away) >= 0.9 * len(others)
    assert all(one.reasons and one.probability is None and one.label is None for one in turned_away)
    unseen = make_unseen(judged)
    kept = [one.status != "not assessable" for one in predictor.answer(unseen, maps=False)]
    assert np.mean(kept) >= 0.9  # of drawings, with a gate that was learned on 237; 95 % of real ones are a benchmark's
    (answer,) = client.post("/predict", files={"images": ("noise.png", saved(speckled(300, 300), "PNG"))}).json()[
        "answers"
    ]
    assert answer["status"] == "not assessable"


def make_unseen(judged: Run) -> list[Path]:
    folder = judged.folder.parents[1] / "unseen"
    if not folder.exists():
        make_dataset(folder, images=60, seed=77)
    return sorted(folder.rglob("*.jpg"))
