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

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402  without s3fs nothing here can be tested
from test_sources import example, framed  # noqa: E402
from zoo import saved, scene  # noqa: E402

from melanoma.answer import answer_pictures, print_answers  # noqa: E402
from melanoma.cli import app  # noqa: E402
from melanoma.config import ImageSettings, load_settings  # noqa: E402
from melanoma.data.cache import cache_key, prepare_cache  # noqa: E402
from melanoma.data.records import read_dataset, read_table  # noqa: E402
from melanoma.data.sources import find_images  # noqa: E402
from melanoma.errors import DataError, MissingExtraError, UnreachableError, UsageError, WriteError  # noqa: E402
from melanoma.files import replacing, sha256, write_bytes  # noqa: E402
from melanoma.inference.inputs import find_pictures  # noqa: E402
from melanoma.places import as_place, files_below, is_remote, kind_of, matching, read_ahead, version_of  # noqa: E402
from melanoma.prepare import prepare  # noqa: E402
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


def small_dataset(folder: Path, names: str = "abc") -> Path:
    for name in names:
        place = folder / "jpeg/train" / f"{name}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(saved(scene(40 + ord(name), 64), "JPEG"))
    rows = "".join(f"{name},p{name},male,40,torso,benign,{name in 'bd'}\n" for name in names)
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
    wanted = [
        (one.score, one.probability, one.status)
        for one in answer_pictures([str(path) for path in chosen], judged.folder)[1]
    ]
    for place in ("s3://bucket/lesions/", "s3://bucket/lesions/*/*.jpg", "s3://bucket/lesions/table.csv"):
        predictor, answers = answer_pictures([place], judged.folder)
        found = list(answers)
        assert [Path(one.name).name for one in found] == [path.name for path in chosen], place
        assert all(one.version for one in find_pictures([place]))
        if not place.endswith(".csv"):  # which tells ages
            assert [(one.score, one.probability, one.status) for one in found] == wanted
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
        lambda: read_dataset(memory),
        lambda: find_pictures([str(memory)]), lambda: read_table(memory / "train.csv", labelled=True),
        lambda: sha256(memory / "train.csv"),
    ):  # fmt: skip
        with pytest.raises(UnreachableError, match=f"memory://bucket/folder.* cannot be reached .*{failure}"):
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
    assert done.stderr.count("\n") == 1 and "s3://bucket/data cannot be reached (Could not connect" in done.stderr


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


@pytest.mark.parametrize(
    "asked",
    [
        "prepare data --runs s3://bucket/runs", "explain a.jpg --out s3://bucket/a.png", "resume s3://bucket/run",
        "submit one two --out s3://bucket/submission.csv", "export run --to s3://bucket/bundle",
        "evaluate held.csv --data s3://bucket/data", "evaluate held.csv --data data --out gs://bucket/report",
        "evaluate s3://bucket/held.csv --data data", "download isic s3://bucket/data",
    ],
)  # fmt: skip
def test_what_needs_a_place_on_this_machine_takes_no_address(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="s://bucket/.* is an address" if "gs:" in asked else "is an address"):
        app(asked.split())
    assert not list(tmp_path.iterdir())


def test_a_store_that_goes_away_stops_a_build_that_goes_on_later(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcde":
        (memory / f"{name}.jpg").write_bytes(JPEG)
    sources, read = list(find_images(memory, list("abcde"), "train").values()), MemoryFileSystem.cat_file

    def expired(self: Any, path: str, **named: Any) -> Any:
        if path.endswith("c.jpg"):
            raise PermissionError("the token has expired")
        return read(self, path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", expired)
        with pytest.raises(UnreachableError, match=r"c\.jpg cannot be reached \(the token has expired\)"):
            prepare_cache(tmp_path / "cache", sources, AT_32)
    assert len(prepare_cache(tmp_path / "cache", sources, AT_32).images) == 5
    assert "going on after 2 of 5 images" in capsys.readouterr().err


def test_a_store_that_goes_away_stops_answers_and_is_none(
    memory: Path, judged: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (memory / f"{name}.jpg").write_bytes(JPEG)
    _, answers = answer_pictures([str(memory)], judged.folder)
    (memory / "b.jpg").unlink()
    assert "is not there" in list(answers)[1].error
    (memory / "b.jpg").write_bytes(JPEG)
    _, answers = answer_pictures([str(memory)], judged.folder)

    def expired(*given: object, **named: object) -> None:
        raise PermissionError("the token has expired")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", expired)
    with pytest.raises(UnreachableError, match="the token has expired"):
        list(answers)


def test_a_replaced_object_has_another_version_as_far_as_a_listing_tells(memory: Path) -> None:
    (memory / "a.jpg").write_bytes(JPEG)
    (memory / "t.csv").write_text("path\na.jpg\n")
    places = [str(memory), str(memory / "*.jpg"), str(memory / "a.jpg"), str(memory / "t.csv")]
    before = [find_pictures([place])[0].version for place in places]
    (memory / "a.jpg").write_bytes(JPEG)
    after = [find_pictures([place])[0].version for place in places]
    assert "" not in before and not [one for one, other in zip(before, after, strict=True) if one == other]


def test_a_dataset_in_a_store_is_prepared_for_training(memory: Path, tmp_path: Path) -> None:
    for path in small_dataset(tmp_path / "data", "abcd").rglob("*"):
        if path.is_file():
            (memory / path.relative_to(tmp_path / "data").as_posix()).write_bytes(path.read_bytes())
    settings = load_settings("demo", ["images.size_px=32", "folds.count=2"])
    here, there = (
        prepare(folder, settings, tmp_path / "cache", tmp_path / f"{name}.csv")
        for name, folder in (("here", tmp_path / "data"), ("there", memory))
    )
    assert there.hashes["train.csv"] == here.hashes["train.csv"] and there.folds == here.folds
    assert (there.cache.images == here.cache.images).all() and list(there.fold) == list(here.fold)


def test_a_record_in_a_store_is_read_by_its_own_bytes_alone(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = b"".join(framed(example(name, f"pixels of {name}")) for name in "ab")
    (memory / "train00-2.tfrec").write_bytes(records)
    found, read = find_images(memory, ["a", "b"], "train"), MemoryFileSystem.cat_file
    asked: list[tuple[int, int]] = []

    def cat_file(self: Any, path: str, start: int, end: int) -> Any:
        asked.append((start, end))
        return read(self, path, start=start, end=end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    monkeypatch.setattr(MemoryFileSystem, "_open", None)
    assert [found[name].read() for name in "ba"] == [b"pixels of b", b"pixels of a"]
    middle = len(framed(example("a", "pixels of a")))
    assert asked == [(middle, len(records)), (0, middle)]


@pytest.mark.parametrize(
    ("rows", "lists"),
    [(["a.jpg", "b.jpg"], 0), (["a", "b", "none"], 1), ([f"{row}.jpg" for row in range(100)], 1)],
    ids=["few by their names", "few without suffix", "many"],
)
def test_a_small_table_at_the_top_of_a_bucket_does_not_list_it(
    memory: Path, monkeypatch: pytest.MonkeyPatch, rows: list[str], lists: int
) -> None:
    for name in "ab":
        (memory / f"{name}.jpg").write_bytes(JPEG)
    (memory / "t.csv").write_text("\n".join(["path", *rows]))
    times, find = [], MemoryFileSystem.find
    monkeypatch.setattr(
        MemoryFileSystem, "find", lambda self, path, **named: times.append(path) or find(self, path, **named)
    )
    found = find_pictures([str(memory / "t.csv")])
    assert len(found) == len(rows) and len(times) == lists
    if len(rows) < 4:
        assert found[0].read() == found[1].read() == JPEG


def test_a_table_in_a_store_that_is_no_text_is_at_fault_itself(memory: Path) -> None:
    (memory / "train.csv").write_bytes("image_name,target\nHautfläche,1\n".encode("latin-1"))
    for ask in (
        lambda: read_table(memory / "train.csv", labelled=True),
        find_pictures([str(memory / "train.csv")])[0].read,
    ):
        with pytest.raises(DataError, match="is not a CSV in UTF-8"):
            ask()


def test_an_address_of_this_machines_files_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "secret.jpg", tmp_path / "in" / "a.jpg"):
        path.write_bytes(JPEG)
    (tmp_path / "in" / "linked.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "in" / "t.csv").write_text("path\na.jpg\nlinked.jpg\n")
    assert as_place(f"file://{tmp_path}") == tmp_path and not is_remote(as_place(f"local://{tmp_path}"))
    first, second = find_pictures([f"file://{tmp_path}/in/t.csv"])
    assert first.read() == JPEG
    with pytest.raises(DataError, match="lies outside the table's folder"):
        second.read()
    assert len(find_pictures([f"file://{tmp_path}/in/*.jpg"])) == 2
    with pytest.raises(UsageError, match="is one of the things that are read"):
        answer_pictures([f"file://{tmp_path}/in/t.csv"], out=tmp_path / "in" / "t.csv")


def test_who_may_write_and_not_remove_writes_a_result(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*given: object, **named: object) -> None:
        raise PermissionError("no right to remove")

    for name in ("rm", "rm_file", "_rm"):
        monkeypatch.setattr(MemoryFileSystem, name, forbidden)
    with replacing(memory / "out.csv") as aside:
        aside.write_bytes(b"answers")
    assert (memory / "out.csv").read_bytes() == b"answers"
