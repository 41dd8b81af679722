"""Datasets, pictures and results in an object store: a server of the S3 kind on this machine, and fsspec's memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("upath")
moto = pytest.importorskip("moto.server")

from zoo import saved, scene  # noqa: E402  without s3fs nothing here can be tested

from melanoma.answer import answer_pictures, print_answers  # noqa: E402
from melanoma.config import ImageSettings  # noqa: E402
from melanoma.data.cache import cache_key, prepare_cache  # noqa: E402
from melanoma.data.records import read_dataset  # noqa: E402
from melanoma.data.sources import find_images  # noqa: E402
from melanoma.errors import DataError, MissingExtraError, UsageError, WriteError  # noqa: E402
from melanoma.files import replacing, write_bytes  # noqa: E402
from melanoma.inference.inputs import find_pictures  # noqa: E402
from melanoma.places import as_place, files_below, is_remote, kind_of, matching, read_ahead, version_of  # noqa: E402
from melanoma.runs import Run  # noqa: E402

JPEG = saved(scene(), "JPEG")
AT_32 = ImageSettings(size_px=32)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server of the S3 kind with an empty bucket; its address is where s3fs looks for it."""
    import boto3
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    os.environ.clear()
    os.environ |= before
    server.stop()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in fsspec's memory."""
    import fsspec

    yield as_place("memory://bucket/folder")
    fsspec.filesystem("memory").store.clear()


def upload(client: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "bucket", f"{prefix}/{path.relative_to(folder).as_posix()}")


def small_dataset(folder: Path) -> Path:
    for name in ("a", "b", "c"):
        place = folder / "jpeg/train" / f"{name}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(saved(scene(40 + ord(name), 64), "JPEG"))
    rows = "".join(f"{name},p{name},male,40,torso,benign,{name == 'b'}\n" for name in "abc")
    header = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,target\n"
    (folder / "train.csv").write_text(header + rows)
    return folder


def test_a_dataset_in_s3_is_prepared_to_the_pixels_of_a_folders(s3: Any, tmp_path: Path) -> None:
    upload(s3, small_dataset(tmp_path / "data"), "small")
    caches = []
    for text in (str(tmp_path / "data"), "s3://bucket/small"):
        dataset = read_dataset(as_place(text))
        found = find_images(dataset.folder, list(dataset.train["image_name"]), "train")
        caches.append(prepare_cache(tmp_path / "cache", list(found.values()), AT_32))
    for name in ("images.npy", "thumbnails.npy", "index.csv"):
        assert (caches[0].folder / name).read_bytes() == (caches[1].folder / name).read_bytes()
    key = caches[1].key
    assert cache_key(found.values(), AT_32) == key
    s3.put_object(Bucket="bucket", Key="small/jpeg/train/a.jpg", Body=JPEG)
    found = find_images(dataset.folder, list(dataset.train["image_name"]), "train")
    assert cache_key(found.values(), AT_32) != key


def test_pictures_in_s3_are_answered_for_as_in_a_folder_and_the_answers_go_there(
    s3: Any, judged: Run, lesions: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = sorted(lesions[:20], key=lambda path: path.name)
    for path in chosen:
        s3.upload_file(str(path), "bucket", f"lesions/below/{path.name}")
    table = "image_name,age_approx\n" + "".join(f"{path.stem},{40 + row}\n" for row, path in enumerate(chosen))
    s3.put_object(Bucket="bucket", Key="lesions/table.csv", Body=table.encode())
    for place in ("s3://bucket/lesions/", "s3://bucket/lesions/*/*.jpg", "s3://bucket/lesions/table.csv"):
        predictor, answers = answer_pictures([place], judged.folder)
        found = list(answers)
        assert [Path(one.name).name for one in found] == [path.name for path in chosen], place
        assert [one.score for one in found if one.status != "error"] and not [one for one in found if one.error]
    out = as_place("s3://bucket/results/answers.csv")
    print_answers(predictor, iter(found), out=out)
    assert print_answers(predictor, iter(found), out=tmp_path / "answers.csv") == 0
    body = s3.get_object(Bucket="bucket", Key="results/answers.csv")["Body"].read()
    assert body == (tmp_path / "answers.csv").read_bytes()
    assert [one["Key"] for one in s3.list_objects_v2(Bucket="bucket", Prefix="results/")["Contents"]] == [
        "results/answers.csv"
    ]
    capsys.readouterr()


def test_on_ray_pictures_and_parts_may_be_in_s3(s3: Any, judged: Run, lesions: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for path in lesions[:20]:
        s3.upload_file(str(path), "bucket", f"ray/{path.name}")
    asked = [sys.executable, "-m", "melanoma", "predict", "s3://bucket/ray", "--model", str(judged.folder), "--out"]
    for way in (["s3://bucket/here.jsonl"], ["s3://bucket/there.jsonl", "--on", "ray"]):
        done = subprocess.run([*asked, *way], capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
    here, there = (s3.get_object(Bucket="bucket", Key=f"{way}.jsonl")["Body"].read() for way in ("here", "there"))
    assert here == there and len(here.splitlines()) == 20
    assert not s3.list_objects_v2(Bucket="bucket", Prefix="there.jsonl.parts").get("Contents")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://nobody/here", "is not there"),
        ("s3://bucket/none.jpg", "is not there"),
        ("s3://bucket/a.zip", "a zip is read on"),
    ],
)
def test_what_is_not_there_is_one_sentence(s3: Any, place: str, said: str) -> None:
    s3.put_object(Bucket="bucket", Key="a.zip", Body=b"")
    (item,) = find_pictures([place])
    with pytest.raises(DataError, match=said) as caught:
        item.read()
    assert place in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_bucket_is_one_sentence_for_a_dataset_and_for_a_result(s3: Any) -> None:
    with pytest.raises(DataError, match="s3://nobody/data is not there, or no folder"):
        read_dataset(as_place("s3://nobody/data"))
    with (
        pytest.raises(WriteError, match=r"s3://nobody/out\.csv cannot be written"),
        replacing(as_place("s3://nobody/out.csv")),
    ):
        raise AssertionError("nothing may be done before")
    with pytest.raises(WriteError, match="cannot be written"):
        write_bytes(as_place("s3://nobody/out.csv"), b"answers")


@pytest.mark.parametrize(
    "failure", [PermissionError("Access Denied"), OSError("the line went dead"), RuntimeError("odd")]
)
def test_whatever_a_store_raises_is_one_sentence(
    memory: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    (memory / "a.jpg").write_bytes(JPEG)
    (item,) = find_pictures([str(memory / "a.jpg")])

    def fail(*given: object, **named: object) -> None:
        raise failure

    for name in ("cat_file", "info", "ls", "find", "_open"):
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem." + name, fail)
    for ask in (
        item.read, lambda: kind_of(memory), lambda: files_below(memory), lambda: version_of(memory),
        lambda: read_dataset(memory), find_pictures([str(memory)])[0].read,
    ):  # fmt: skip
        with pytest.raises(DataError, match=f"memory://bucket/folder.* cannot be read .*{failure}"):
            ask()
    with pytest.raises(WriteError, match=f"out.csv cannot be written .*{failure}"), replacing(memory / "out.csv"):
        pass


def test_a_server_that_nobody_runs_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "melanoma", "prepare", "s3://bucket/data"], capture_output=True, text=True, check=False,
        env=os.environ | dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
        | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "s3://bucket/data cannot be read (Could not connect" in done.stderr


def test_a_table_in_a_store_cannot_lead_out_of_its_folder(memory: Path) -> None:
    (memory / "a.jpg").write_bytes(JPEG)
    as_place("memory://bucket/secret.jpg").write_bytes(JPEG)
    outside = ["../secret.jpg", "/bucket/secret.jpg", "s3://other/b.jpg", "gs://other/b.jpg", "below/../../secret.jpg"]
    (memory / "t.csv").write_text("path\na.jpg\n" + "".join(f"{name}\n" for name in outside))
    first, *others = find_pictures([str(memory / "t.csv")])
    assert first.read() == JPEG
    assert len(others) == len(outside)
    for item in others:
        with pytest.raises(DataError, match="lies outside the table's folder"):
            item.read()


def test_a_result_in_a_store_appears_whole_or_not_at_all(memory: Path) -> None:
    out = memory / "out.csv"
    write_bytes(out, b"before")
    with pytest.raises(RuntimeError), replacing(out) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError
    assert out.read_bytes() == b"before" and not aside.exists()
    with replacing(out) as aside:
        aside.write_bytes(b"after")
    assert out.read_bytes() == b"after"
    assert [path.name for path in files_below(memory)] == ["out.csv"]


def test_a_result_may_not_replace_what_is_read(memory: Path) -> None:
    (memory / "a.csv").write_text("path\nb.jpg\n")
    with pytest.raises(UsageError, match="is one of the things that are read"):
        answer_pictures([str(memory / "a.csv")], out=memory / "a.csv")


def test_a_picture_that_is_too_large_is_refused(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melanoma.inference.inputs.LARGEST_BYTES", 100)
    (memory / "a.jpg").write_bytes(JPEG)
    with pytest.raises(DataError, match="is no photograph"):
        find_pictures([str(memory / "a.jpg")])[0].read()


def test_a_glob_and_a_folder_of_a_store_list_its_objects(memory: Path) -> None:
    for name in ("a.jpg", "below/b.jpg", "below/c.txt"):
        (memory / name).write_bytes(JPEG)
    assert [str(path) for path in matching(memory / "*/*.jpg")] == ["memory://bucket/folder/below/b.jpg"]
    assert [one.name for one in find_pictures([str(memory)])] == [str(memory / "a.jpg"), str(memory / "below/b.jpg")]
    assert not is_remote(as_place("a/b.jpg")) and is_remote(memory)


def test_reading_ahead_keeps_the_order_and_says_what_failed_in_its_turn() -> None:
    def read(number: int) -> bytes:
        if number == 30:
            raise DataError("the thirtieth")
        return bytes([number])

    for remote in (False, True):
        found = []
        for number, ahead in enumerate(read_ahead([partial(read, number) for number in range(60)], remote)):
            if number == 30:
                with pytest.raises(DataError, match="thirtieth"):
                    ahead()
            else:
                found.append(ahead())
        assert found == [bytes([number]) for number in range(60) if number != 30]


def test_an_unknown_scheme_and_a_missing_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nope://x/y is no address"):
        as_place("nope://x/y")
    for package, address, extra in (("upath", "s3://b/x", "s3"), ("gcsfs", "gs://b/x", "gs")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=rf"melanoma\[{extra}\]"):
                as_place(address)


def test_runs_and_caches_cannot_be_in_a_store() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "melanoma", "prepare", "data", "--runs", "s3://bucket/runs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "runs and caches need a folder of this machine" in done.stderr
