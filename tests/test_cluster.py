"""Ray gives what the built-in way gives, and loses nothing with a worker, a node or the command itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from melanoma import parts
from melanoma.answer import answer_pictures, print_answers
from melanoma.cluster import QUIET, spreading
from melanoma.config import ImageSettings
from melanoma.data.cache import prepare_cache
from melanoma.data.sources import Source
from melanoma.data.workers import InOrder, in_order
from melanoma.errors import DataError, MelanomaError, MissingExtraError, UsageError
from melanoma.runs import Run

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, **QUIET}  # read when Ray is imported
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # what Ray would warn of
pytest.importorskip("ray")

HERE = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])}
AT_32 = ImageSettings(size_px=32)


def here(cluster: Any) -> str:
    """Tell where a cluster is: it gives this machine's name in the network, which tests may not ask for."""
    return f"127.0.0.1:{cluster.address.rpartition(':')[2]}"


@pytest.fixture(scope="module", autouse=True)
def workers_find_these_tests() -> Iterator[None]:
    """Let the processes that are started here import the package and this file."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HERE.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of one node with two cores."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture
def spread(nodes: Any) -> Iterator[InOrder]:
    """What spreads work over that cluster."""
    with spreading("ray", here(nodes)) as found:
        assert found is not None
        yield found


def doubled(items: list[int]) -> list[int]:
    return [2 * item for item in items]


def dies_once(items: list[int], mark: Path) -> list[int]:
    if 30 in items and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return doubled(items)


def dies_of(items: list[int], bad: int) -> list[int]:
    if bad in items:
        os.kill(os.getpid(), signal.SIGKILL)
    return doubled(items)


def slowly_doubled(items: list[int]) -> list[int]:
    time.sleep(0.02 * len(items))
    return doubled(items)


def refuses(items: list[int]) -> list[int]:
    raise DataError(f"{items[0]} is bad", ["told in full"])


def test_ray_gives_the_answers_of_the_built_in_way_in_its_order(spread: InOrder) -> None:
    assert list(spread(doubled, range(1000))) == list(in_order(doubled, range(1000)))
    assert list(spread(doubled, [])) == []


def test_what_the_work_raises_comes_back_as_itself(spread: InOrder) -> None:
    with pytest.raises(DataError, match="0 is bad") as caught:
        list(spread(refuses, range(10)))
    assert caught.value.details == ["told in full"]


def test_a_killed_worker_costs_no_answer(spread: InOrder, tmp_path: Path) -> None:
    assert list(spread(partial(dies_once, mark=tmp_path / "died"), range(100))) == doubled(list(range(100)))
    assert (tmp_path / "died").exists()


def test_what_kills_every_worker_is_named_and_not_tried_for_ever(spread: InOrder) -> None:
    with pytest.raises(MelanomaError, match=r"4 workers one after the other died .* with number 0: leave") as caught:
        list(spread(partial(dies_of, bad=0), range(10), "number {}".format))
    assert "\n" not in str(caught.value)


def test_what_runs_out_of_memory_on_a_cluster_of_others_is_not_tried_for_ever() -> None:
    from ray.cluster_utils import Cluster

    full = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 100}  # of which only workers are killed
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": full}
    )
    try:
        with spreading("ray", here(made)) as spread:
            assert spread is not None
            with pytest.raises(MelanomaError, match="4 workers one after the other died or ran out of memory"):
                list(spread(waits, range(3)))
    finally:
        made.shutdown()


def waits(items: list[int]) -> list[int]:
    time.sleep(60)
    return items


def test_a_lost_node_costs_no_answer_and_a_new_one_joins(capfd: pytest.CaptureFixture[str]) -> None:
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        lost = made.add_node(num_cpus=1)
        with spreading("ray", here(made)) as spread:
            assert spread is not None
            found = []
            for answer in spread(slowly_doubled, range(200)):
                found.append(answer)
                if len(found) == 60:
                    made.add_node(num_cpus=1)
                    made.remove_node(lost, allow_graceful=False)
        assert found == doubled(list(range(200)))
        assert not capfd.readouterr().out  # where answers are printed
    finally:
        made.shutdown()


def test_workers_have_a_core_each_and_the_same_package(spread: InOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(spread(cores_of, range(10))) == {1}
    monkeypatch.setattr("melanoma.cluster.code_hash", lambda: "another")
    with pytest.raises(MelanomaError, match="another version of this package: install the same on every node"):
        list(spread(doubled, range(3)))


def cores_of(items: list[int]) -> list[int]:
    from melanoma.machine import cores

    return [cores() for _ in items]


def some_sources(folder: Path) -> list[Source]:
    folder.mkdir()
    for number in range(60):
        Image.new("RGB", (40 + number, 50), (number, 2 * number, 90)).save(folder / f"{number}.png")
    return [Source(str(number), folder / f"{number}.png") for number in range(60)]


def test_a_cache_made_on_ray_is_the_built_in_one_byte_for_byte_also_after_an_interrupt(
    spread: InOrder, tmp_path: Path
) -> None:
    sources = some_sources(tmp_path / "images")
    here = prepare_cache(tmp_path / "here", sources, AT_32)

    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cache(tmp_path / "ray", sources, AT_32, stop, spread)
    counted: list[int] = []
    ray = prepare_cache(tmp_path / "ray", sources, AT_32, lambda done, total: counted.append(done), spread)
    assert counted == list(range(30, 61))
    for path in here.folder.iterdir():
        assert path.read_bytes() == (ray.folder / path.name).read_bytes(), path.name


def test_workers_need_not_work_in_the_folder_of_the_command(
    spread: InOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = some_sources(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    relative = [Source(one.image_name, one.path.relative_to(tmp_path)) for one in sources]
    assert len(prepare_cache(tmp_path / "ray", relative, AT_32, spread=spread).images) == 60


def test_bad_images_are_named_by_ray_as_by_the_built_in_way(spread: InOrder, tmp_path: Path) -> None:
    sources = some_sources(tmp_path / "images")
    for number in (7, 40):
        sources[number].path.write_bytes(b"no picture")
    said = []
    for root, way in (("here", None), ("ray", spread)):
        with pytest.raises(DataError) as caught:
            prepare_cache(tmp_path / root, sources, AT_32, spread=way)
        said.append(str(caught.value))
    assert said[0] == said[1] and "2 of 60 images" in said[0]


def answered(folder: Path, judged: Run, out: Path, spread: InOrder | None, most: int | None = None) -> bytes:
    predictor, answers = answer_pictures([str(folder)], judged.folder, out=out, spread=spread)
    if most is not None:
        with closing(answers):  # type: ignore[type-var]
            for _ in range(most):
                next(answers)
        return b""
    print_answers(predictor, answers, out=out, parts=spread is not None)
    return out.read_bytes()


def test_predict_on_ray_writes_the_built_in_file_and_goes_on_after_an_interrupt(
    spread: InOrder, judged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts, "PART", 32)
    folder = judged.folder.parents[1] / "data"
    wanted = answered(folder, judged, tmp_path / "here.csv", None)
    printed = capsys.readouterr().out
    answered(folder, judged, tmp_path / "ray.csv", spread, most=100)
    assert not (tmp_path / "ray.csv").exists()
    assert len(list((tmp_path / "ray.csv.parts").glob("part-*.jsonl"))) == 4
    answered(folder, judged, tmp_path / "ray.csv", None)
    assert len(list((tmp_path / "ray.csv.parts").glob("part-*.jsonl"))) == 4  # a command without Ray leaves them
    (tmp_path / "ray.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("melanoma.answer.code_hash", lambda: "another")
        with pytest.raises(UsageError, match=r"answers to another question \(code differ\)"):
            answered(folder, judged, tmp_path / "ray.csv", spread)
    capsys.readouterr()
    assert answered(folder, judged, tmp_path / "ray.csv", spread) == wanted
    told = capsys.readouterr()
    assert told.out == printed
    assert "going on after 128 of 252 pictures" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.csv", "ray.csv"]


def test_predict_starts_a_ray_of_its_own_reads_zips_and_reports_what_is_bad(judged: Run, tmp_path: Path) -> None:
    import zipfile

    lesions = sorted((judged.folder.parents[1] / "data").rglob("*.jpg"))[:20]
    with zipfile.ZipFile(tmp_path / "lesions.zip", "w") as archive:
        for path in lesions:
            archive.write(path, path.name)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pictures = ["lesions.zip", "bad.jpg", "gone.jpg"]
    done = [
        subprocess.run(
            [sys.executable, "-m", "melanoma", "predict", *pictures, "--json", "--model", str(judged.folder), *on],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )
        for on in ([], ["--on", "ray"])
    ]  # fmt: skip
    assert done[0].stdout == done[1].stdout and len(done[0].stdout.splitlines()) == 22
    for one in done:
        assert one.returncode == 1 and "2 of the pictures could not be read" in one.stderr, one.stderr
        assert "Traceback" not in one.stderr


def test_a_reader_that_has_enough_ends_ray_quietly(judged: Run) -> None:
    command = [sys.executable, "-m", "melanoma", "predict", judged.folder.parents[1] / "data", "--on", "ray"]
    running = subprocess.Popen(
        [*command, "--json", "--model", judged.folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stderr is not None
    for _ in range(3):
        assert running.stdout.readline().startswith("{")
    running.stdout.close()
    with running.stderr:
        told = running.stderr.read()
    assert running.wait(timeout=60) == 1
    assert not [line for line in told.splitlines() if "Traceback" in line or "Error" in line or "Started" in line], told


STOPPED = """
import time
from melanoma.cluster import QUIET, spreading
def work(items):
    if 5 in items:
        time.sleep(1000)
    return items
with spreading("ray", None) as spread:
    for one in spread(work, range(100)):
        print(one, flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_kill_stop_ray_within_seconds(sent: signal.Signals, tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n{STOPPED}"
    running = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "0\n"
    started = time.monotonic()
    os.killpg(running.pid, sent) if sent == signal.SIGINT else running.send_signal(sent)
    _, told = running.communicate(timeout=60)
    assert told.splitlines()[-1] == "KeyboardInterrupt", told
    assert time.monotonic() < started + 15


def test_a_ray_that_is_started_here_asks_for_its_token(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from melanoma.cluster import QUIET, spreading
with spreading("ray", None) as spread:
    assert list(spread(list, range(3))) == [0, 1, 2]
    import ray
    where = ray.get_runtime_context().gcs_address
    other = f"import ray; ray.init({where!r}, logging_level='ERROR'); print('let in', ray.nodes())"
    for token in (os.environ["RAY_AUTH_TOKEN"], "1" * 64):
        try:
            given = os.environ | {"RAY_AUTH_TOKEN": token}
            subprocess.run([sys.executable, "-c", other], env=given, stderr=subprocess.DEVNULL, timeout=8)
        except subprocess.TimeoutExpired:
            print("still waiting")
"""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    bare["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("let in") == 1
    assert not list(tmp_path.iterdir())  # no token is left behind


def test_what_is_under_way_is_bounded_and_dropped_when_nobody_wants_it(spread: InOrder) -> None:
    started = time.monotonic()
    with closing(spread(doubled, range(10**9))) as answers:
        assert [next(answers) for _ in range(1000)] == doubled(list(range(1000)))
    assert list(spread(doubled, range(3))) == [0, 2, 4]
    assert time.monotonic() < started + 20


def test_an_address_without_ray_a_wrong_one_and_a_missing_package_are_one_sentence_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="give --on ray"), spreading(None, "auto"):
        pass
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"):
        started = time.monotonic()
        with pytest.raises(MelanomaError, match=f"no Ray cluster answers at {address}"):
            spreading("ray", address).__enter__()
        assert time.monotonic() < started + 10
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"melanoma\[ray\]"):
        spreading("ray", None).__enter__()
