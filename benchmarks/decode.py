"""From a 24-megapixel JPEG file to 768 x 512 RGB pixels on one core: Pillow, OpenCV, simplejpeg and this package.

    python benchmarks/decode.py

The files are the JPEGs inside the 6000 x 4000 DICOM files of --dicoms; where there are none, one drawn lesion. Each
stack also tells how far its pixels are from the first one's, the mean of all differences on the scale of 0 to 255.
Pillow and OpenCV resize as they do when nothing is said, and OpenCV once more as it should: its default aliases.
"""

import argparse
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from turns import NotHere, Stack, Work, main

DICOMS = Path(__file__).parents[2] / "shared/data/siim2020/dicom"
WIDTH, HEIGHT = 768, 512
LEAST_PIXELS = 20_000_000
Pixels = NDArray[np.uint8]
Way = Callable[[Path], Pixels]


def jpegs(dicoms: Path) -> Iterator[bytes]:
    """Take the JPEG out of each large DICOM file below a folder, or draw one."""
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    found = False
    for path in sorted(dicoms.rglob("*.dcm")):
        dataset = dcmread(path)
        if dataset.Rows * dataset.Columns > LEAST_PIXELS:
            found = True
            yield next(generate_frames(dataset.PixelData, number_of_frames=1))
    if not found:
        yield drawn()


def drawn() -> bytes:
    """Draw a lesion, enlarge it to 6000 x 4000 and lay a sensor's grain over it."""
    from melanoma.data.synthetic import make_dataset

    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder) / "data", images=400, test_images=10)
        with Image.open(min(Path(folder).rglob("*.jpg"))) as lesion:
            large = np.asarray(lesion.convert("RGB").resize((6000, 4000), Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(0).normal(0, 3, large.shape[:2]).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray((large + grain[:, :, None]).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def with_pillow(path: Path, draft: int | None = None) -> Pixels:
    """Decode in full, or to no less than `draft` pixels a side; then Pillow's own resize."""
    with Image.open(path) as image:
        if draft:
            image.draft(None, (draft, draft))
        return np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT)))


def with_opencv(path: Path, how: int) -> Pixels:
    """Decode in full and resize."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=how))


def with_simplejpeg(path: Path) -> Pixels:
    """Decode to no less than the pixels wanted, then average areas."""
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(path.read_bytes(), min_width=WIDTH, min_height=HEIGHT)
    return np.asarray(cv2.resize(pixels, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


def with_melanoma(path: Path) -> Pixels:
    """Decode with the package's own checks, and shrink with its own filter."""
    from melanoma.images.decode import decode
    from melanoma.images.filters import shrunk

    return shrunk(decode(path, HEIGHT), WIDTH, HEIGHT)


WAYS: dict[str, Way] = {
    "Pillow, full decode, resize": with_pillow,
    "OpenCV, full decode, resize": lambda path: with_opencv(path, cv2.INTER_LINEAR),
    "OpenCV, full decode, area resize": lambda path: with_opencv(path, cv2.INTER_AREA),
    "Pillow, draft, resize": lambda path: with_pillow(path, HEIGHT),
    "Pillow, draft to twice the size, resize": lambda path: with_pillow(path, 2 * HEIGHT),
    "simplejpeg at scale, area resize": with_simplejpeg,
    "melanoma": with_melanoma,
}


def stack(name: str) -> Stack:
    """Make a benchmark of one way: it decodes every file once."""
    way = WAYS[name]

    def begin(options: argparse.Namespace) -> Work:
        if not hasattr(os, "sched_setaffinity"):
            raise NotHere("a process cannot be held to one core here")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        cv2.setNumThreads(1)
        folder = tempfile.TemporaryDirectory()
        for number, content in enumerate(jpegs(options.dicoms)):
            (Path(folder.name) / f"{number}.jpg").write_bytes(content)
        paths = sorted(Path(folder.name).iterdir())
        away = [float(np.abs(way(path).astype(int) - with_pillow(path)).mean()) for path in paths]
        print(f"{name}: {np.mean(away):.2f} of 255 away from the first, at most {max(away):.2f} in {len(paths)} files")

        def work(kept: object = folder) -> int:  # the folder lives as long as the work
            for path in paths:
                way(path)
            return len(paths)

        return work

    return begin


if __name__ == "__main__":
    main(
        {name: stack(name) for name in WAYS},
        unit="images",
        ours=["melanoma"],
        description=str(__doc__).splitlines()[0],
        arguments=lambda parser: parser.add_argument("--dicoms", type=Path, default=DICOMS, help="where to look"),
    )
