"""What a training step takes is told before the first: refused where it cannot fit, remarked on where it may not."""

from pathlib import Path

import pytest
from tiny import TINY

from melanoma import machine, pipeline
from melanoma.config import settings_from
from melanoma.data.synthetic import make_dataset
from melanoma.errors import MelanomaError
from melanoma.models.backend import keras
from melanoma.models.classifier import build_classifier
from melanoma.training import memory
from melanoma.training.memory import bytes_per_image, check_memory

MIB = 2**20


@pytest.fixture(scope="module")
def network() -> object:
    keras.config.set_dtype_policy("float32")
    settings = settings_from({"model": {"backbone": "MobileNet_0.25"}, "images": {"size_px": 32}})
    return build_classifier(settings.model, settings.images, 0, weights="none")


def test_every_layer_counts_in_the_precision_that_it_computes_in() -> None:
    image = keras.Input((8, 8, 3))
    inside = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, padding="same")])
    x = keras.layers.GlobalAveragePooling2D(dtype="mixed_bfloat16")(inside(image))
    counted = bytes_per_image(keras.Model(image, keras.layers.Dense(1, dtype="float32")(x)))
    # the input, the convolution's map, five means in two bytes each, the answer; nothing twice
    assert counted == 4 * 8 * 8 * 3 + 4 * 8 * 8 * 5 + 2 * 5 + 4


def test_what_cannot_fit_is_refused_with_the_number_that_does(
    network: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    an_image = bytes_per_image(network)
    fixed = network.count_params() * memory.BYTES_PER_WEIGHT  # type: ignore[attr-defined]
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    monkeypatch.setattr(memory, "memory_left", lambda: fixed + 10 * an_image)
    check_memory(network, 10)
    assert capsys.readouterr().err == ""
    check_memory(network, 11)
    assert "if the system ends it, use --set train.batch_size=10" in capsys.readouterr().err
    with pytest.raises(MelanomaError, match=r"on 31 images takes .* GiB are free: use --set train\.batch_size=10$"):
        check_memory(network, 31)
    monkeypatch.setattr(memory, "memory_left", lambda: 1)
    with pytest.raises(MelanomaError, match=r"a smaller images\.size_px"):
        check_memory(network, 1)
    monkeypatch.setattr(memory, "memory_left", lambda: None)
    check_memory(network, 10**9)
    monkeypatch.setattr(memory, "memory_left", lambda: 1)
    monkeypatch.setattr(memory, "has_gpu", lambda: True)  # which says so itself
    check_memory(network, 10**9)


def test_a_run_is_refused_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "data", images=60)
    monkeypatch.setattr(memory, "has_gpu", lambda: False)
    monkeypatch.setattr(memory, "memory_left", lambda: MIB)
    with pytest.raises(MelanomaError, match=r"of memory, and 0\.0 GiB are free"):
        pipeline.run(tmp_path / "data", "demo", [*TINY, "folds.count=2"], name="large", runs=tmp_path / "runs")
    assert not [*tmp_path.rglob("*.h5"), *tmp_path.rglob("state.npz")]


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2048 kB\n"}, 2 * MIB),
        ({"/proc/meminfo": "MemAvailable: 2048 kB\n", "/sys/fs/cgroup/memory.max": "max\n"}, 2 * MIB),
        (
            {
                "/proc/meminfo": "MemAvailable: 2048 kB\n",
                "/sys/fs/cgroup/memory.max": "1000\n",
                "/sys/fs/cgroup/memory.current": "400\n",
            },
            600,
        ),
        (
            {
                "/sys/fs/cgroup/memory.max": "1000\n",
                "/sys/fs/cgroup/memory.current": "900\n",
                "/sys/fs/cgroup/memory.stat": "anon 100\nfile 800\nactive_file 50\ninactive_file 750\n",
            },
            850,
        ),
        (
            {
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "1000",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes": "2000",
            },
            0,
        ),
        ({}, None),
    ],
)
def test_what_is_left_is_the_least_that_system_and_container_tell(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], left: int | None
) -> None:
    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert machine.memory_left() == left
