"""One lesion under two names: official pairs, the same bytes, and pixels that are the same picture.

Pairs of names come out; which rows then stay together, and which are dropped, follows from the pairs. It
opens no file: hashes and thumbnails are given to it.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise, product

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from melanoma.errors import DataError, listed
from melanoma.machine import release

Pair = tuple[str, str]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

# Set by eye on 13,365 ISIC-2017 and HAM10000 images, patients differing, all pairs aligned that looked at all
# alike: the 58 above 0.75 are each one lesion; from 0.69 downwards come dark spots on pale skin.
SAME_PICTURE = 0.75
COARSE_CORRELATION = 0.66  # first look, 16 x 16; 0.62 finds 57 pairs, not 55, among three times as many
CUT_CORRELATION = 0.8  # the same, where one is compared with the middle of the other
SHIFTED_CORRELATION = 0.67  # second look, 32 x 32, moved by up to MOST_SHIFT_PX
SURE_CORRELATION = 0.9  # above it all 151 pairs of those images also passed the last look
MOST_SHIFT_PX = 4
MOST_LOOKED_AT = 20_000  # pairs that get the last and slow look, the likeliest first: bounds the time
MOST_CANDIDATES = 2_000_000  # bounds the memory, where very many pictures are nearly the same
BLOCK = 512
TURNS = tuple(range(8))  # by quarters, as it is and mirrored: of a square thumbnail each is exact
MIDDLES = (1.0, 0.91, 0.83)  # shares of the side: what was cut to 0.79 of it, or less, is near one of them
ALIGNMENT_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-4)


def groups_of(table: pd.DataFrame, pairs: Iterable[Pair]) -> Int64Array:
    """Number the rows so that all that must stay on one side of a split share a number.

    Rows are tied by a patient, by a lesion where it is known, and by `pairs` of image names (names not in the
    table are passed over), also by way of other rows.
    groups: int64 (rows,), 0 upwards in the order of first appearance.
    """
    count = len(table)
    patients, _ = pd.factorize(table["patient_id"])
    lesions, _ = pd.factorize(table["lesion_id"])  # -1 where unknown
    known = np.flatnonzero(lesions >= 0)
    first, second = _rows_of(table, pairs)
    # Patients and lesions are nodes of their own, after the rows.
    start = np.concatenate([np.arange(count), known, first])
    end = np.concatenate([count + patients, count + len(set(patients)) + lesions[known], second])
    return _components(2 * count + int(lesions.max(initial=0)) + 1, start, end)[:count]


def dropped(table: pd.DataFrame, pairs: Iterable[Pair]) -> NDArray[np.bool_]:
    """Mark every row but the first of each set of rows that are one picture.

    pairs: exact duplicates, the official ones or the same bytes. dropped: bool (rows,).
    Raises DataError where two of a set have different targets.
    """
    pairs = list(pairs)
    contradicting = contradictions(table, pairs)
    if contradicting:
        raise DataError(f"the same picture is labelled both ways: {listed(contradicting)}; correct the targets")
    first, second = _rows_of(table, pairs)
    sets = _components(len(table), first, second)
    return pd.Series(sets).duplicated().to_numpy()


def contradictions(table: pd.DataFrame, pairs: Iterable[Pair]) -> list[str]:
    """Name, as "A and B", the pairs whose two targets differ; none where the table has no targets."""
    if "target" not in table:
        return []
    first, second = _rows_of(table, pairs)
    target, names = table["target"].to_numpy(), table["image_name"].to_numpy()
    differ = target[first] != target[second]
    return [f"{one} and {other}" for one, other in zip(names[first[differ]], names[second[differ]], strict=True)]


def same_bytes(hashes: "pd.Series[str]") -> list[Pair]:
    """Pair the images whose files are the same, byte for byte.

    hashes: str, indexed by image name: any digest of the file, missing where there is none. Each set of equal
    files gives its names in a chain, in their order.
    """
    known = hashes.dropna()
    repeated = known[known.duplicated(keep=False)]
    chains = [list(names) for names in repeated.groupby(repeated, sort=False).groups.values()]
    return [(str(one), str(other)) for chain in chains for one, other in pairwise(chain)]


def near_duplicates(image_names: Sequence[str], *thumbnails: NDArray[np.uint8]) -> list[Pair]:
    """Pair the images that show one picture: recoloured, compressed anew, resized, cut round its middle, turned.

    thumbnails: uint8 RGB (images, 64, 64, 3), the whole image squashed to the square; of several tables, one array
    after the other, none of which is read into memory as a whole.
    Local contrast (brightness less its surroundings, over its spread, so that colour and light drop out) within
    a disc (so that dark corners drop out) is compared coarsely over all pairs, turns and middles, then in its best
    shift; what is not sure by then is aligned by an affine map (Evangelidis and Psarakis 2008,
    doi:10.1109/TPAMI.2008.113) and its finest detail correlated. Pairs come in the order of the images. Other
    photographs of a lesion are mostly not found.
    """
    if len(image_names) < 2:
        return []
    places = [(part, row) for part in thumbnails for row in range(len(part))]
    outlines = [np.concatenate([_outlines(part, middle) for part in thumbnails]) for middle in MIDDLES]
    candidates, sure = _best_shifted(outlines, _alike(outlines))

    def detail_agrees(candidate: Int64Array) -> bool:
        row, other, turn, middle = candidate.tolist()
        pictures = _grey(_taken(*places[row])), _turned(_grey(_taken(*places[other])), turn)
        return _aligned_correlation(*pictures, MIDDLES[middle]) >= SAME_PICTURE

    unsure = np.flatnonzero(~sure)[:MOST_LOOKED_AT]
    with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter while it aligns
        sure[unsure] = np.fromiter(pool.map(detail_agrees, candidates[unsure]), bool, len(unsure))
    pairs = np.unique(np.sort(candidates[sure, :2], axis=1), axis=0)
    return [(image_names[row], image_names[other]) for row, other in pairs.tolist()]


def _taken(thumbnails: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    """Copy one thumbnail, and give the memory of its pages back."""
    picture = np.array(thumbnails[row])
    release(thumbnails)
    return picture


def _rows_of(table: pd.DataFrame, pairs: Iterable[Pair]) -> tuple[Int64Array, Int64Array]:
    """Give the two row numbers of each pair whose names are both in the table."""
    rows = {name: row for row, name in enumerate(table["image_name"])}
    known = [(rows[one], rows[other]) for one, other in pairs if one in rows and other in rows]
    both = np.array(known, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _components(count: int, start: Int64Array, end: Int64Array) -> Int64Array:
    """Number the connected parts of a graph of `count` nodes, in the order of their first nodes."""
    edges = coo_array((np.ones(len(start), bool), (start, end)), shape=(count, count))
    _, parts = connected_components(edges, directed=False)
    codes: Int64Array = pd.factorize(parts)[0].astype(np.int64)
    return codes


@cache
def _disc(side: int) -> Float32Array:
    """Weigh the pixels of a square by 1 inside its inscribed circle, falling to 0 at its edge."""
    across = np.abs(np.arange(side) - (side - 1) / 2) / (side / 2)
    disc: Float32Array = np.clip((0.97 - np.hypot(across[:, None], across)) * 8, 0, 1).astype(np.float32)
    return disc


def _turned(pictures: Float32Array, turn: int) -> Float32Array:
    """Turn the last two axes by quarters, and mirror them for an odd `turn`: 0 to 7 are all there are."""
    quarters = np.rot90(pictures, turn // 2, axes=(-2, -1))
    return np.ascontiguousarray(quarters[..., ::-1] if turn % 2 else quarters)


def _grey(picture: NDArray[np.uint8]) -> Float32Array:
    grey: Float32Array = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey


def _detail(grey: Float32Array, sigma_px: float) -> Float32Array:
    """Take the brightness of the surroundings away."""
    detail: Float32Array = grey - cv2.GaussianBlur(grey, (0, 0), sigma_px)
    return detail


def _local_contrast(grey: Float32Array, sigma_px: float, spread_px: float) -> Float32Array:
    """Divide detail by its own spread round about; the 4 keeps the noise of flat skin small, of 0 to 255."""
    detail = _detail(grey, sigma_px)
    contrast: Float32Array = detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), spread_px) + 4)
    return contrast


def _unit(pictures: Float32Array) -> Float32Array:
    """Flatten each picture to a vector of mean 0 and length 1, or 0 where it is flat: products correlate."""
    vectors = pictures.reshape(len(pictures), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    unit: Float32Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit


def _unit_pictures(pictures: Float32Array) -> Float32Array:
    return _unit(pictures).reshape(pictures.shape)


def _outlines(thumbnails: NDArray[np.uint8], middle: float) -> NDArray[np.float16]:
    """Give the local contrast within the disc of each thumbnail's middle: float16 (images, 32, 32), to save memory."""
    outlines = np.empty((len(thumbnails), 32, 32), np.float16)
    disc, edge = _disc(32), round(32 * (1 - middle))
    for row, thumbnail in enumerate(thumbnails):
        looked_at = _grey(thumbnail[edge : 64 - edge, edge : 64 - edge])
        half = cv2.resize(looked_at, (32, 32), interpolation=cv2.INTER_AREA)
        outlines[row] = _local_contrast(half, 2, 2) * disc
        if row % BLOCK == 0:
            release(thumbnails)
    return outlines


def _alike(outlines: list[NDArray[np.float16]]) -> Int64Array:
    """Correlate all pairs at 16 x 16 in every turn, and with the middle of every other one.

    Gives int64 (candidates, 4): row, other row, the other's turn, which of MIDDLES the row is seen by; 0 is the whole,
    and the other then comes later.
    """
    small = [whole.reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4), dtype=np.float32) for whole in outlines]
    found, room = [], MOST_CANDIDATES
    for middle, seen in enumerate(map(_unit, small)):
        least = CUT_CORRELATION if middle else COARSE_CORRELATION
        for turn in TURNS:
            others = _unit(_turned(small[0], turn))
            for start in range(0, len(seen), BLOCK):
                skipped = 0 if middle else start  # with earlier ones a whole picture was compared before
                correlation = seen[start : start + BLOCK] @ others[skipped:].T
                if middle:
                    np.fill_diagonal(correlation[:, start:], 0)  # a picture with its own middle
                else:
                    correlation[np.tril_indices(len(correlation))] = 0
                row, other = np.divmod(np.flatnonzero(correlation > least)[:room], correlation.shape[1])
                kinds = np.full_like(row, turn), np.full_like(row, middle)
                found.append(np.stack([row + start, other + skipped, *kinds], axis=1))
                room -= len(row)
    return np.concatenate(found)


def _best_shifted(outlines: list[NDArray[np.float16]], candidates: Int64Array) -> tuple[Int64Array, NDArray[np.bool_]]:
    """Keep the candidates that correlate well after a shift, each pair in its best turn, the likeliest first.

    A product of Fourier transforms correlates at every shift at once. Gives the candidates, and which of them are sure.
    """
    best = np.zeros(len(candidates), np.float32)
    window = np.arange(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1)
    for turn, middle in product(TURNS, range(len(MIDDLES))):
        places = np.flatnonzero((candidates[:, 2] == turn) & (candidates[:, 3] == middle))
        for start in range(0, len(places), BLOCK):  # the transforms of all pictures would take a gigabyte
            some = places[start : start + BLOCK]
            row, other = candidates[some, :2].T
            plain = rfft2(_unit_pictures(outlines[middle][row].astype(np.float32)))
            turned = rfft2(_turned(_unit_pictures(outlines[0][other].astype(np.float32)), turn))
            shifted = irfft2(plain * turned.conj(), s=(32, 32))
            best[some] = shifted[:, window[:, None], window].max(axis=(1, 2))
    order = np.argsort(-best, kind="stable")[: int((best > SHIFTED_CORRELATION).sum())]
    _, first = np.unique(np.sort(candidates[order, :2], axis=1), axis=0, return_index=True)
    kept = order[np.sort(first)]
    return candidates[kept], best[kept] > SURE_CORRELATION


def _aligned_correlation(grey: Float32Array, other: Float32Array, middle: float) -> float:
    """Move `other` onto the `middle` of `grey` by an affine map and correlate their fine detail; -1 where none fits."""
    disc = _disc(64)
    edge = 32 * (1 - middle)
    start = np.array([[1, 0, -edge], [0, 1, -edge]], np.float32) / np.float32(middle)
    try:
        _, affine = cv2.findTransformECC(
            _detail(grey, 3),
            _detail(other, 3),
            start,
            cv2.MOTION_AFFINE,
            ALIGNMENT_STEPS,
            (disc * 255).astype(np.uint8),
            3,
        )
    except cv2.error:  # it did not converge
        return -1.0
    if not 0.5 < np.linalg.det(affine[:, :2]) < 2:
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    weight = disc * cv2.warpAffine(disc, affine, (64, 64), flags=flags)
    moved = cv2.warpAffine(_local_contrast(other, 2, 4), affine, (64, 64), flags=flags)
    return _weighted_correlation(_local_contrast(grey, 2, 4), moved, weight)


def _weighted_correlation(one: Float32Array, other: Float32Array, weight: Float32Array) -> float:
    if weight.sum() <= 0:
        return -1.0
    one = one - np.average(one, weights=weight)
    other = other - np.average(other, weights=weight)
    spread = np.sqrt(np.sum(weight * one * one) * np.sum(weight * other * other))
    return float(np.sum(weight * one * other) / spread) if spread > 0 else -1.0
