"""Prepared images on disk: built once, found again, never half there."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from zoo import dicom, saved, scene

from melanoma.config import ImageSettings
from melanoma.data.cache import cache_key, open_cache, prepare_cache
from melanoma.data.sources import Source, find_images
from melanoma.errors import DataError, MelanomaError
from melanoma.images.filters import prepare

AT_32 = ImageSettings(size_px=32)


def folder_of_three(tmp_path: Path) -> list[Source]:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved(scene(), "PNG"))
    (folder / "b.dcm").write_bytes(dicom(scene().tobytes()))
    (folder / "c.bmp").write_bytes(saved(scene(96, 64), "BMP"))
    found = find_images(folder, ["a", "b", "c"], "train")
    return [found[name] for name in ("a", "b", "c")]


def test_every_format_lands_in_the_cache_as_the_filters_make_it(tmp_path: Path) -> None:
    cache = prepare_cache(tmp_path / "cache", folder_of_three(tmp_path), AT_32)
    assert cache.images.shape == (3, 32, 32, 3)
    for row, picture in enumerate((scene(), scene(), scene(96, 64))):
        assert np.array_equal(cache.images[row], prepare(picture, AT_32))
    assert list(cache.index["image_name"]) == ["a", "b", "c"]
    assert list(cache.index["width"]) == [64, 64, 64]
    assert list(cache.index["height"]) == [48, 48, 96]
    assert list(cache.rows_of(pd.Series(["c", "a"]))) == [2, 0]
    with pytest.raises(DataError, match="not in the cache: d"):
        cache.rows_of(pd.Series(["a", "d"]))


def test_whatever_the_pixels_depend_on_makes_another_cache(tmp_path: Path) -> None:
    sources = folder_of_three(tmp_path)
    keys = {cache_key(sources, AT_32), cache_key(sources[:2], AT_32), cache_key(sources[::-1], AT_32)}
    keys |= {
        cache_key(sources, ImageSettings(size_px=33)),
        cache_key(sources, ImageSettings(size_px=32, crop="centre")),
    }
    assert len(keys) == 5
    os.utime(sources[0].path, (1, 1))
    assert cache_key(sources, AT_32) not in keys
    assert open_cache(tmp_path / "cache", "0" * 16) is None


def test_a_link_is_the_file_behind_it_and_a_linked_folder_the_one_behind(tmp_path: Path) -> None:
    sources = folder_of_three(tmp_path)
    folder = sources[0].path.parent
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "a.png").symlink_to(sources[0].path)
    keys = {
        cache_key([Source("a", path)], AT_32)
        for path in (sources[0].path, tmp_path / "linked/a.png", tmp_path / "a.png", folder / "../data/a.png")
    }
    assert len(keys) == 1


def test_a_second_call_reads_no_image(tmp_path: Path) -> None:
    sources = folder_of_three(tmp_path)
    counted: list[int] = []
    for _ in range(2):
        prepare_cache(tmp_path / "cache", sources, AT_32, lambda done, total: counted.append(done))
    assert counted == [0, 1, 2, 3]


def test_a_build_that_fails_names_every_bad_image_and_leaves_nothing(tmp_path: Path) -> None:
    sources = folder_of_three(tmp_path)
    for source in sources[:2]:
        content = source.path.read_bytes()
        source.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"2 of 3 images cannot be read: a .*, b ") as caught:
        prepare_cache(tmp_path / "cache", sources, AT_32)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError.__base__, match="cannot be written"):
        prepare_cache(tmp_path / "cache", folder_of_three(tmp_path), AT_32)


@pytest.mark.parametrize("name", ["images.npy", "thumbnails.npy", "index.csv"])
def test_a_cache_that_was_cut_is_one_sentence(tmp_path: Path, name: str) -> None:
    sources = folder_of_three(tmp_path)
    folder = prepare_cache(tmp_path / "cache", sources, AT_32).folder
    content = (folder / name).read_bytes()
    for kept in (0, len(content) // 2):
        (folder / name).write_bytes(content[:kept])
        with pytest.raises(MelanomaError, match=r"is damaged .* remove it, and it is made again"):
            prepare_cache(tmp_path / "cache", sources, AT_32)
