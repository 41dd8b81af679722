"""How many copies of a picture the search for duplicates finds, how many false alarms it gives, and how long it takes.

python benchmarks/duplicates.py --data ../shared/data/isic

Copies of real images, for each kind other images drawn by the seed, are made through their encoded bytes and all put
among all images of the dataset. A false alarm is a pair of which one is a planted copy and the other neither its
original, nor of the original's patient or lesion, nor a picture that the search pairs with the original anyway. The
peer is imagehash, perceptual and difference hashes of 64 bits, each picture in its eight turns, within a number of
bits; without it (pip install imagehash) its columns are left out. Images of a folder without tables (--originals) are
copied in each kind too.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
SHARES = (0.95, 0.9, 0.85, 0.8)
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
    **{f"JPEG quality {q}": lambda image, q=q: encoded(image, quality=q) for q in (30, 50, 70, 90)},
    "PNG": lambda image: encoded(image, "PNG"),
    "WEBP quality 50": lambda image: encoded(image, "WEBP", quality=50),
    **{f"{s:g} x the size": lambda image, s=s: encoded(resized(image, s), quality=90) for s in (0.5, 0.75, 1.5, 2)},
    "0.5 x the size, JPEG quality 50": lambda image: encoded(resized(image, 0.5), quality=50),
    "turned by 90°": lambda image: turned(image, Image.Transpose.ROTATE_90),
    "turned by 180°": lambda image: turned(image, Image.Transpose.ROTATE_180),
    "turned by 270°": lambda image: turned(image, Image.Transpose.ROTATE_270),
    "mirrored": lambda image: turned(image, Image.Transpose.FLIP_LEFT_RIGHT),
    **{f"middle {s:.0%} of each side": lambda image, s=s: encoded(cut(image, s), quality=90) for s in SHARES},
    **{f"corner {s:.0%} of each side": lambda image, s=s: encoded(cut(image, s, 0), quality=90) for s in SHARES},
    **{f"off-centre {s:.0%} of each side": lambda image, s=s: encoded(cut(image, s, 0.25), quality=90) for s in SHARES},
    "right 90% of the width": lambda image: encoded(image.crop((image.width // 10, 0, *image.size)), quality=90),
    "middle 90%, 0.5 x, JPEG quality 50": lambda image: encoded(resized(cut(image, 0.9), 0.5), quality=50),
    "middle 90%, turned by 90°": lambda image: turned(cut(image, 0.9), Image.Transpose.ROTATE_90),
    "corner 90%, turned by 90°": lambda image: turned(cut(image, 0.9, 0), Image.Transpose.ROTATE_90),
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


def hashed(near: NDArray[np.bool_], originals: list[str], names: list[str], related: dict[str, set[str]]) -> str:
    """Give recall and false alarms of hashes that are near: bool (copies, names)."""
    place = {name: row for row, name in enumerate(names)}
    recall = np.mean([near[copy, place[name]] for copy, name in enumerate(originals)])
    false = sum(names[other] not in related[originals[copy]] for copy, other in np.argwhere(near))
    return f"{recall:.3f} / {false:,}"


def kin(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Name of each image those that may rightly be paired with it: its own, its patient's, its lesion's, its twins."""
    related = {name: {name} for name in table["image_name"]}
    for column in ("patient_id", "lesion_id"):
        for _, names in table.dropna(subset=[column]).groupby(column)["image_name"]:
            for name in names:
                related[name] |= set(names)
    for one, other in pairs:
        related[one].add(other)
        related[other].add(one)
    return related


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--copies", type=int, default=300, help="images that are copied in each kind")
    parser.add_argument("--originals", type=Path, help="a folder of larger JPEG images, all copied in each kind")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Print a line for each kind of copy."""
    given = arguments()

    # ---- the haystack ------------------------------------------------------------------------------------------------
    dataset = read_dataset(given.data)
    table = dataset.train if dataset.test is None else pd.concat([dataset.train, dataset.test], ignore_index=True)
    sources = find_images(dataset.folder, list(dataset.train["image_name"]), "train")
    if dataset.test is not None:
        sources |= find_images(dataset.folder, list(dataset.test["image_name"]), "test")
    contents = {name: source.read for name, source in sources.items()}
    chosen = list(np.random.default_rng(given.seed).permutation(list(contents)))
    if given.originals:
        chosen = sorted(path.stem for path in given.originals.glob("*.jpg"))
        contents |= {name: (given.originals / f"{name}.jpg").read_bytes for name in chosen}
        table = pd.concat([table, pd.DataFrame({"image_name": chosen})], ignore_index=True)
        table = table.drop_duplicates("image_name")
        given.copies = len(chosen)
    names = list(contents)
    haystack = np.stack([thumbnail(contents[name](), name) for name in names])

    # ---- the copies, and one search for all of them ------------------------------------------------------------------
    planted: dict[str, dict[str, str]] = {}
    copies: dict[str, Pixels] = {}
    for number, (title, change) in enumerate(KINDS.items()):
        drawn = [str(name) for name in np.roll(chosen, -number * given.copies)[: given.copies]]
        planted[title] = {f"{title} of {name}": name for name in drawn}
        pictures = (Image.fromarray(decode(contents[name](), LARGEST_PX, name)) for name in drawn)
        copies[title] = np.stack([thumbnail(change(picture), title) for picture in pictures])
    original = {name: name for name in names} | {copy: name for of in planted.values() for copy, name in of.items()}
    started = time.perf_counter()
    pairs = near_duplicates(list(original), haystack, *copies.values())
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = [(one, other) for one, other in pairs if original[one] == one and original[other] == other]
    print(f"{len(original):,} pictures searched in {seconds:.1f} s; {memory:.2f} GiB at the peak of the whole job")
    print(f"{len(names):,} images hold {len(own):,} pairs of their own")
    related = kin(table, own)
    found = set(pairs)

    # ---- each kind of copy -------------------------------------------------------------------------------------------
    columns = [f"{kind} {bits}" for kind in HASHES for bits in BITS] if imagehash else []
    known = {kind: hashes(haystack, kind) for kind in HASHES} if imagehash else {}
    titles = "".join(f"{column + ' recall/false':>24}" for column in columns)
    print(f"{'copy':<36}{'recall':<22}{'false':>6}   {titles or 'imagehash is not installed: no peer'}")
    alarms: list[str] = []
    for title, of in planted.items():
        hits = sum((name, copy) in found for copy, name in of.items())
        touching = [(original[one], original[other]) for one, other in pairs if one in of or other in of]
        false = sorted({f"{one} and {other}" for one, other in touching if other not in related[one]})
        alarms += false
        line = f"{title:<36}{wilson(hits, len(of)):<22}{len(false):>6}   "
        for kind, bits_of in known.items():
            apart = differing_bits(bits_of, copies[title], kind)
            line += "".join(f"{hashed(apart <= most, list(of.values()), names, related):>24}" for most in BITS)
        print(line, flush=True)
    print("false alarms, to be looked at: " + ("; ".join(alarms) or "none"))


if __name__ == "__main__":
    main()
