"""How many copies of a picture the search for duplicates finds, how many false alarms it gives, and how long it takes.

python benchmarks/duplicates.py --data ../shared/data/isic

Copies of real images are made through their encoded bytes and put, one kind at a time, among all images of the dataset.
A false alarm is a pair of which one is a planted copy and the other neither its original nor a picture that the search
pairs with the original anyway. The peer is imagehash, perceptual and difference hashes of 64 bits, each picture in its
eight turns, within a number of bits; without it (pip install imagehash) its columns are left out.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from melanoma.data.duplicates import near_duplicates
from melanoma.data.records import read_dataset
from melanoma.data.sources import find_images
from melanoma.images.decode import decode
from melanoma.images.filters import process

try:
    import imagehash
except ImportError:
    imagehash = None

Pixels = NDArray[np.uint8]
Change = Callable[[Image.Image], bytes]
THUMBNAIL_PX = 64
LARGEST_PX = 640
BITS = (4, 8, 10)
HASHES = ("phash", "dhash")


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Give the bytes of the image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def resized(image: Image.Image, factor: float) -> Image.Image:
    """Give the image at another size."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def cut(image: Image.Image, share: float, place: float = 0.5) -> Image.Image:
    """Give the part of the image that has this share of its sides; place 0 is the upper left corner, 0.5 the middle."""
    wide, high = round(image.width * share), round(image.height * share)
    left, top = round((image.width - wide) * place), round((image.height - high) * place)
    return image.crop((left, top, left + wide, top + high))


def turned(image: Image.Image, how: Image.Transpose) -> bytes:
    """Give the image laid down another way, compressed anew."""
    return encoded(image.transpose(how), quality=90)


KINDS: dict[str, Change] = {
    **{f"JPEG quality {q}": lambda image, q=q: encoded(image, quality=q) for q in (30, 50, 75, 90)},
    "PNG": lambda image: encoded(image, "PNG"),
    "WEBP quality 50": lambda image: encoded(image, "WEBP", quality=50),
    **{f"{s:g} x the size": lambda image, s=s: encoded(resized(image, s), quality=90) for s in (0.5, 0.75, 1.5, 2)},
    "0.5 x the size, JPEG quality 50": lambda image: encoded(resized(image, 0.5), quality=50),
    "turned by 90°": lambda image: turned(image, Image.Transpose.ROTATE_90),
    "turned by 180°": lambda image: turned(image, Image.Transpose.ROTATE_180),
    "turned by 270°": lambda image: turned(image, Image.Transpose.ROTATE_270),
    "mirrored": lambda image: turned(image, Image.Transpose.FLIP_LEFT_RIGHT),
    **{f"middle {s:.0%} of each side": lambda image, s=s: encoded(cut(image, s), quality=90) for s in (0.95, 0.9, 0.8)},
    **{f"corner {s:.0%} of each side": lambda image, s=s: encoded(cut(image, s, 0), quality=90) for s in (0.95, 0.9)},
    "a quarter brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.25), quality=90),
    "half the colour": lambda image: encoded(ImageEnhance.Color(image).enhance(0.5), quality=90),
    "turned by 15°": lambda image: encoded(image.rotate(15, Image.Resampling.BICUBIC), quality=90),
}


def thumbnail(content: bytes, name: str) -> Pixels:
    """Decode a file as the package does, to the thumbnail that the search looks at."""
    return process(decode(content, THUMBNAIL_PX, name), THUMBNAIL_PX)


def wilson(hits: int, of: int) -> str:
    """Give a share with its 95 % interval."""
    share, z = hits / of, 1.96
    middle, reach = (
        (hits + z * z / 2) / (of + z * z),
        z * ((share * (1 - share) * of + z * z / 4) ** 0.5) / (of + z * z),
    )
    return f"{share:.3f} ({max(0, middle - reach):.3f}-{min(1, middle + reach):.3f})"


def hashes(pictures: Pixels, kind: str) -> NDArray[np.uint64]:
    """Give imagehash's 64 bits of each picture: uint64 (pictures,)."""
    bits = [getattr(imagehash, kind)(Image.fromarray(picture)).hash.ravel() for picture in pictures]
    return np.packbits(np.array(bits), axis=1).view(np.uint64)[:, 0]


def differing_bits(known: NDArray[np.uint64], copies: Pixels, kind: str) -> NDArray[np.int64]:
    """Count the bits in which each copy, in its best turn, differs from each known hash: int64 (copies, known)."""
    best = np.full((len(copies), len(known)), 64, np.int64)
    for turn in range(8):
        laid = np.rot90(copies, turn // 2, axes=(1, 2))
        laid = np.ascontiguousarray(laid[:, :, ::-1] if turn % 2 else laid)
        best = np.minimum(best, np.bitwise_count(hashes(laid, kind)[:, None] ^ known))
    return best


def main() -> None:
    """Print a line for each kind of copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--copies", type=int, default=200, help="images that are copied in each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    # ---- the haystack ------------------------------------------------------------------------------------------------
    dataset = read_dataset(given.data)
    sources = find_images(dataset.folder, list(dataset.train["image_name"]), "train")
    if dataset.test is not None:
        sources |= find_images(dataset.folder, list(dataset.test["image_name"]), "test")
    names = list(sources)
    haystack = np.stack([thumbnail(sources[name].read(), name) for name in names])
    started = time.perf_counter()
    own = near_duplicates(names, haystack)
    print(
        f"{len(names):,} images hold {len(own):,} pairs of their own; searched in {time.perf_counter() - started:.1f} s"
    )
    twins: dict[str, set[str]] = {name: {name} for name in names}
    for one, other in own:
        twins[one].add(other)
        twins[other].add(one)
    chosen = np.random.default_rng(given.seed).choice(len(names), given.copies, replace=False)
    originals = [Image.fromarray(decode(sources[names[row]].read(), LARGEST_PX, names[row])) for row in chosen]

    # ---- each kind of copy among them --------------------------------------------------------------------------------
    columns = [f"{kind} {bits}" for kind in HASHES for bits in BITS] if imagehash else []
    known = {kind: hashes(haystack, kind) for kind in HASHES} if imagehash else {}
    print(
        f"{'copy':<34}{'recall':<22}{'false':>6}   " + "".join(f"{column + ' recall/false':>24}" for column in columns)
    )
    for title, change in KINDS.items():
        copies = np.stack([thumbnail(change(image), title) for image in originals])
        copied = {f"copy {number}": names[row] for number, row in enumerate(chosen)}
        pairs = near_duplicates([*names, *copied], np.concatenate([haystack, copies]))
        found = [(one, other) for one, other in pairs if other in copied and one not in copied]
        hits = sum(copied[other] == one for one, other in found)
        false = sum(one not in twins[copied[other]] for one, other in found)
        line = f"{title:<34}{wilson(hits, len(copies)):<22}{false:>6}   "
        for kind, bits_of in known.items():
            apart = differing_bits(bits_of, copies, kind)
            for most in BITS:
                right = float((apart[np.arange(len(copies)), chosen] <= most).mean())
                near = [(chosen[copy], other) for copy, other in np.argwhere(apart <= most)]
                alarms = sum(names[other] not in twins[names[row]] for row, other in near)
                line += f"{f'{right:.3f} / {alarms:,}':>24}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
