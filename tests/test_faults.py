"""The list of bad inputs and faults from row 16 on: leaks, faults of the machine, attacks, what is no lesion.

Each row once, as a person meets it; the modules' own tests go further, `benchmarks/kill.py` and `siege.py` further yet.
Rows 1 to 15 are in `test_bad_inputs.py`.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from serving import serving
from starlette.testclient import TestClient
from test_full_disk import PAGE, content, data_of, leave, melanoma, refused
from test_gate import drawn
from test_hostile_models import network
from test_kill import differences
from test_web import asked
from tiny import TINY
from zoo import saved, scene, speckled

from melanoma import pipeline
from melanoma.check import check_data
from melanoma.config import Settings
from melanoma.data import workers
from melanoma.data.cache import prepare_cache
from melanoma.data.clutter import draw_clutter
from melanoma.data.folds import read_folds
from melanoma.data.sources import Source
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError, MelanomaError, ModelError, WriteError
from melanoma.evaluation.metrics import auc
from melanoma.evaluation.subgroups import subgroups
from melanoma.files import ASIDE, previous, sha256
from melanoma.inference.bundle import SUMS, read_bundle
from melanoma.inference.predict import Predictor
from melanoma.models.backend import BACKEND
from melanoma.models.losses import build_loss
from melanoma.runs import Run, open_run
from melanoma.training import memory
from melanoma.training.state import read_position
from melanoma.web import forms
from melanoma.web.app import create_app

httpx2 = pytest.importorskip("httpx2", reason="the extra dev is not installed")
SMALL = [*TINY, "folds.count=2", "train.epochs=1"]
SOON_SECONDS = 1.0


@pytest.fixture(scope="module")
def client(judged: Run) -> Iterator[TestClient]:
    with TestClient(create_app(Predictor(judged.folder), largest_bytes=2**20)) as client:
        yield client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data", images=60)
    return tmp_path / "data"


def test_row_16_a_given_split_that_leaks_is_an_error_and_near_duplicates_are_kept_on_one_side(
    data: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(data / "train.csv")
    several = table["patient_id"].value_counts().index[0]
    first = table["image_name"][table["patient_id"] == several].iloc[0]
    torn = table[["image_name"]].assign(fold=(table["image_name"] == first).astype(int))
    torn.to_csv(tmp_path / "torn.csv", index=False)
    with pytest.raises(DataError, match=f"patient {several} in folds"):
        pipeline.run(data, "demo", [*SMALL, f"folds.file={tmp_path / 'torn.csv'}"], name="torn", runs=tmp_path)

    alone = table[table["target"] == 0].drop_duplicates("patient_id")["image_name"].tolist()[:4]
    files = {name: next(data.rglob(f"{name}.jpg")) for name in alone}
    files[alone[1]].write_bytes(files[alone[0]].read_bytes())  # the same bytes under another patient
    with Image.open(files[alone[2]]) as picture:
        picture.save(tmp_path / "anew.jpg", quality=60)
    files[alone[3]].write_bytes((tmp_path / "anew.jpg").read_bytes())  # and the same picture, compressed anew
    patient = dict(zip(table["image_name"], table["patient_id"], strict=True))
    apart = {patient[alone[1]]: 1, patient[alone[3]]: 1}
    table[["image_name"]].assign(fold=table["patient_id"].map(apart).fillna(0).astype(int)).to_csv(
        tmp_path / "leak.csv", index=False
    )
    leaks = check_data(data, Settings(), tmp_path / "cache", folds=tmp_path / "leak.csv").of("error")
    told = " ".join(f"{one.text} {one.details}" for one in leaks)
    assert {one.kind for one in leaks} == {"leak"} and all(name in told for name in alone)

    run = pipeline.start(data, "demo", SMALL, name="kept", runs=tmp_path / "runs")
    prepared = pipeline.reopen(run, run.settings())
    names = list(prepared.table["image_name"])
    assert prepared.group[names.index(alone[2])] == prepared.group[names.index(alone[3])]
    assert any("kept on one side" in text and alone[2] in text and alone[3] in text for text in prepared.remarks)
    assert len(set(read_folds(run.folds, prepared.table, prepared.group)[[names.index(n) for n in alone[2:]]])) == 1


def test_row_17_a_figure_that_has_no_value_says_why() -> None:
    assert auc([0, 0, 0], [0.1, 0.2, 0.3]) is None
    number = np.arange(400)
    table = pd.DataFrame(
        {
            "patient_id": [f"P{n}" for n in number], "target": (number % 4 == 0).astype(int),
            "probability": np.random.default_rng(0).random(400), "age_years": 50.0, "sex": "male",
            "site": np.select([number < 40, number < 80, number < 120], ["palms/soles", "head/neck", "torso"], "rest"),
        }
    )  # fmt: skip
    table.loc[table["site"] == "palms/soles", "target"] = 0
    table.loc[table["site"] == "head/neck", "target"] = 1
    table.loc[table["site"] == "torso", "target"] = (np.arange(40) == 0).astype(int)
    found = {row["name"]: row for row in subgroups(table, 0.5, samples=50, seed=0)}
    for name, reason in (("palms/soles", "melanomas"), ("torso", "melanomas"), ("head/neck", "benign images")):
        assert found[name]["auc"]["value"] is None
        assert found[name]["auc"]["reason"] == f"fewer than 10 {reason}"
    assert found["rest"]["auc"]["value"] is not None


def test_row_18_a_loss_that_is_no_number_stops_names_the_images_and_keeps_the_last_good_weights(
    data: Path, tmp_path: Path
) -> None:
    settings, steps = [*SMALL, "train.epochs=2", "train.batch_size=8"], iter(range(1000))

    def spoilt(wanted: Any) -> Any:
        loss = build_loss(wanted)
        return lambda y, p: loss(y, p) * (float("nan") if len(y) == 8 and next(steps) > 4 else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melanoma.training.train.build_loss", spoilt)
        with pytest.raises(MelanomaError, match=r"no longer a number at epoch 2, step \d \(images \w+.* are kept"):
            pipeline.run(data, "demo", settings, name="spoilt", runs=tmp_path / "runs")
    run = open_run(tmp_path / "runs" / "spoilt")
    position = read_position(run.state(0))
    assert (position.epoch, position.best_sha256) == (1, sha256(run.weights(0)))
    assert pipeline.resume(run.folder).report.exists(), "nothing of the spoilt step was kept"


KILL_AT = """
import os, pathlib, signal, sys
from melanoma.cli import main
left, what, plain = int(sys.argv[1]), sys.argv[2], pathlib.Path.replace

def replace(path, target):
    global left
    left -= what in str(target)
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(path, target)

pathlib.Path.replace = replace
sys.argv = ["melanoma", *sys.argv[3:]]
main()
"""


def test_row_19_a_kill_inside_any_write_leaves_what_was_there_and_resume_ends_with_the_same_weights(
    judged: Run, tmp_path: Path
) -> None:
    runs, settings = tmp_path / "runs", [f"--set={line}" for line in (
        *TINY, "folds.count=2", "model.metadata=true", "evaluate.precision=float32", "data.licence=CC0 1.0",
    )]  # fmt: skip
    begin = ["run", data_of(judged), "--recipe", "demo", "--name", "drawn", "--runs", runs, *settings]

    def killed(count: int, what: str, *command: object) -> None:
        program = [sys.executable, "-c", KILL_AT, str(count), what, *map(str, command)]
        ended = subprocess.run(program, check=False, capture_output=True, text=True, timeout=300)
        assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]

    killed(0, "cache", *begin)  # while the cache is renamed into place
    assert not (runs / "drawn" / "folds.csv").exists()
    killed(0, "folds.csv", *(["resume", runs / "drawn"] if (runs / "drawn").exists() else begin))
    killed(2, "state.npz", "resume", runs / "drawn")  # between a checkpoint and the one before it
    run = open_run(runs / "drawn")
    assert previous(run.state(0)).exists() and not run.report.exists()
    assert read_position(run.state(0)).epoch == 1
    killed(0, "submission.csv", "resume", runs / "drawn")
    assert not run.submission.exists()
    ended = melanoma("resume", run.folder)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert differences(judged, run) == []
    assert not [*run.folder.rglob(f"{ASIDE}*")]


def test_row_20_a_full_disk_is_one_sentence_and_what_was_there_stays(
    judged: Run, lesions: list[Path], disk: Path
) -> None:
    run = Run(shutil.copytree(judged.folder, disk / "runs" / "drawn"))
    before = content(run.folder)
    leave(disk, 2 * PAGE)
    refused(melanoma("export", run.folder, "--to", disk / "copy"), disk / "copy")
    with pytest.raises(WriteError, match="No space left on device; make room there"):
        prepare_cache(disk / "cache", [Source(path.stem, path) for path in lesions[:40]], run.settings().images)
    leave(disk, PAGE)
    answers = disk / "answers.csv"
    refused(melanoma("predict", lesions[0].parent, "--model", judged.folder, "--out", answers), answers)
    assert content(run.folder) == before
    assert not answers.exists() and not (disk / "copy").exists() and not [*disk.rglob(f"{ASIDE}*")]


def flip(path: Path) -> None:
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)


def test_row_21_damaged_weights_give_way_to_those_before_or_are_refused(
    judged: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(shutil.copytree(judged.folder, tmp_path / "run"))
    flip(run.state(0))
    assert read_position(run.state(0)).epoch < read_position(judged.state(0)).epoch
    assert "is damaged" in (said := capsys.readouterr().err) and "going on from the state before it" in said
    flip(previous(run.state(0)))
    with pytest.raises(MelanomaError, match="is damaged"):
        read_position(run.state(0))
    for spoil in (
        flip,
        lambda path: os.truncate(path, 1000),
        lambda path: shutil.copy(path.with_name("fold-0.onnx"), path),
    ):
        bundle = shutil.copytree(judged.bundle, tmp_path / str(len(list(tmp_path.iterdir()))))
        spoil(bundle / "fold-1.onnx")
        with pytest.raises(ModelError, match=r"fold-1\.onnx' is missing or differs from its hash"):
            Predictor(bundle)


HOLD = """
import sys, time
from pathlib import Path
from melanoma.files import locked
with locked(Path(sys.argv[1]), wait=True, what="it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_row_22_of_two_processes_one_waits_for_a_cache_and_is_refused_for_a_run(
    judged: Run, lesions: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def held(lock: Path, seconds: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock), str(seconds)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    sources = [Source(lesions[0].stem, lesions[0])]
    key = prepare_cache(tmp_path / "first", sources, Settings().images).key
    with held(tmp_path / "cache" / f".{key}.lock", 1.0) as process:
        begun = time.monotonic()
        cache = prepare_cache(tmp_path / "cache", sources, Settings().images)
        assert time.monotonic() - begun > 0.5 and len(cache.images) == 1
        process.wait()
    told = capsys.readouterr().err
    assert "note: waiting for the cache" in told and f"in use by process {process.pid}" in told

    run = Run(shutil.copytree(judged.folder, tmp_path / "run"))
    with held(run.folder / ".lock", 30) as process:
        refusal = melanoma("resume", run.folder)
        process.kill()
    assert refusal.returncode == 1
    assert f"in use by process {process.pid}" in refusal.stderr.splitlines()[-1]


def test_row_23_too_little_memory_is_told_before_the_first_step_and_halves_the_batch_on_a_gpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(memory, "memory_left", lambda: 2**20)
        with pytest.raises(MelanomaError, match=r"step on 16 images takes .* of memory, and 0\.0 GiB are free: use"):
            pipeline.run(data, "demo", SMALL, name="cpu", runs=tmp_path)
    assert not [*tmp_path.rglob("state.npz")]
    if BACKEND != "torch":
        return
    import torch

    from melanoma.training.halving import HalvingModel

    plain = HalvingModel.__call__

    def small_gpu(self: Any, images: Any, *given: Any, training: bool = False, **more: Any) -> Any:
        if training and isinstance(images, torch.Tensor | np.ndarray) and len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, images, *given, training=training, **more)

    monkeypatch.setattr(HalvingModel, "__call__", small_gpu)
    run = pipeline.run(data, "demo", SMALL, name="gpu", runs=tmp_path)
    assert read_position(run.state(0)).parts == 4
    assert "in 4 parts of 4 images, whose gradients are summed" in capsys.readouterr().err


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
                    with pytest.raises(httpx2.TimeoutException):
                        client.post(f"{service.address}/predict", files=picture, timeout=0.001)
                    return None
                return client.post(f"{service.address}/predict", files=picture)

        with ThreadPoolExecutor(200) as pool:
            responses = [one for one in pool.map(ask, range(200)) if one is not None]
        assert {one.status_code for one in responses} <= {200, 503}
        assert all(int(one.headers["retry-after"]) >= 1 for one in responses if one.status_code == 503)
        scores = [one.json()["answers"][0]["score"] for one in responses if one.status_code == 200]
        assert len(scores) >= 8 and scores == pytest.approx([alone.score] * len(scores), abs=1e-5)
        with ThreadPoolExecutor(4) as pool:
            last = [pool.submit(ask, number) for number in range(4)]
            time.sleep(0.02)
            service.process.send_signal(signal.SIGTERM)
            begun = time.monotonic()
            assert service.process.wait(30) == 0
            assert time.monotonic() - begun < 30
            for one in last:
                if one.exception() is None:  # else it came after the end
                    assert one.result().status_code in (200, 503)


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


def test_row_28_the_same_seed_gives_the_same_weights_and_no_order_or_number_changes_a_score(
    data: Path, judged: Run, lesions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pipeline.run(data, "demo", SMALL, name="one", runs=tmp_path / "a")
    monkeypatch.setattr(workers, "cores", lambda: 3)
    other = pipeline.run(data, "demo", SMALL, name="one", runs=tmp_path / "b")
    assert differences(one, other) == []
    third = pipeline.run(data, "demo", [*SMALL, "seed=5"], name="one", runs=tmp_path / "c")
    assert differences(one, third)
    chosen, order = lesions[:40], np.random.default_rng(0).permutation(40)
    for choice, tolerance in (
        (("onnxruntime", "float32"), 1e-5),
        (("auto", "float32"), 1e-5),
        (("auto", "auto"), 5e-3),
    ):
        predictor = Predictor(judged.folder, engine=choice[0], precision=choice[1])
        together = predictor.predict_proba(chosen)[:, 1]
        shuffled = predictor.predict_proba([chosen[place] for place in order])[:, 1]
        single = [predictor.predict_proba(path)[0, 1] for path in chosen[:8]]
        np.testing.assert_allclose(shuffled, together[order], atol=tolerance)
        np.testing.assert_allclose(single, together[:8], atol=tolerance)


OFFLINE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from offline import watch
watch(Path(sys.argv[2]))
hidden = sys.argv[3].split(",")
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
plain = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in hidden else plain(name, package)
sys.argv = ["melanoma", *sys.argv[4:]]
from melanoma.cli import main
main()
"""


def test_row_29_without_extras_or_network_what_can_be_done_is_and_the_rest_names_its_install_line(
    judged: Run, lesions: list[Path], tmp_path: Path
) -> None:
    def alone(hidden: str, *command: object) -> subprocess.CompletedProcess[str]:
        tests, asked = str(Path(__file__).parent), str(tmp_path / "asked.txt")
        program = [sys.executable, "-c", OFFLINE, tests, asked, hidden, *map(str, command)]
        return subprocess.run(program, check=False, capture_output=True, text=True, timeout=120)

    model = ["--model", judged.folder]
    every = "torch,jax,tensorflow,keras,openvino,fastapi,uvicorn,huggingface_hub,pylibjpeg,openjpeg"
    done = alone(every, "predict", lesions[0], *model)
    assert done.returncode == 0, done.stderr
    done = alone(every, "explain", lesions[0], *model, "--out", tmp_path / "map.png")
    assert done.returncode == 0, done.stderr
    for command, extra in (
        (["train", data_of(judged), "--recipe", "demo"], "train"),
        (["serve", *model], "serve"),
        (["predict", lesions[0], "--model", "hf://owner/name@main"], "hub"),
    ):
        refusal = alone(every, *command)
        assert refusal.returncode != 0 and "Traceback" not in refusal.stderr
        assert f"pip install 'melanoma[{extra}]'" in refusal.stderr.splitlines()[-1]
    assert not (tmp_path / "asked.txt").exists(), (tmp_path / "asked.txt").read_text()
    refusal = alone("", "predict", lesions[0], "--model", "hf://owner/name@main")  # which does need a network
    assert refusal.returncode != 0 and "Traceback" not in refusal.stderr
    assert (tmp_path / "asked.txt").exists()
