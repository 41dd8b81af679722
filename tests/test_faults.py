"""The list of bad inputs and faults from row 16 to 23, 28 and 29: leaks, and faults of the machine.

Each row once, as a person meets it; the modules' own tests go further, and `benchmarks/kill.py` further yet. Rows 1 to
15 are in `test_bad_inputs.py`, those that come from outside in `test_from_outside.py`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_full_disk import PAGE, content, data_of, leave, melanoma, refused
from test_kill import differences
from tiny import TINY

from melanoma import pipeline
from melanoma.check import check_data
from melanoma.config import Settings
from melanoma.data import workers
from melanoma.data.cache import prepare_cache
from melanoma.data.folds import read_folds
from melanoma.data.sources import Source
from melanoma.data.synthetic import make_dataset
from melanoma.errors import DataError, MelanomaError, ModelError, WriteError
from melanoma.evaluation.metrics import auc
from melanoma.evaluation.subgroups import subgroups
from melanoma.files import ASIDE, previous, sha256
from melanoma.inference.predict import Predictor
from melanoma.models.backend import BACKEND
from melanoma.models.losses import build_loss
from melanoma.runs import Run, open_run
from melanoma.training import memory
from melanoma.training.state import read_position

SMALL = [*TINY, "folds.count=2", "train.epochs=1"]


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
        with pytest.raises(MelanomaError, match=r"no longer a number at epoch 2, step \d \(images \w+.* is kept"):
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

    killed(2, "cache", *begin)  # after its index and its settings: when the cache of the training images is renamed
    assert [path.name[0] for path in (runs / "cache").iterdir() if path.is_dir()] == ["."]
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
        patch.setattr(memory, "has_gpu", lambda: False)
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
    assert "in 4 parts of up to 4 images, whose gradients are summed" in capsys.readouterr().err


def test_row_28_the_same_seed_gives_the_same_weights_and_no_order_or_number_changes_a_score(
    data: Path, judged: Run, lesions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pipeline.run(data, "demo", SMALL, name="one", runs=tmp_path / "a")
    monkeypatch.setattr(workers, "cores", lambda: 3)
    other = pipeline.run(data, "demo", SMALL, name="one", runs=tmp_path / "b")
    assert differences(one, other) == []
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
