"""One lesion under two names: official pairs, the same bytes, and pixels that are the same picture.

Pairs of names come out; which rows then stay together, and which are dropped, follows from the pairs. It
opens no file: hashes and thumbnails are given to it.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise, product
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from melanoma.errors import DataError, listed
from melanoma.machine import release

VERSION = 1  # raised when other pairs are found in the same thumbnails
Pair = tuple[str, str]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


class View(NamedTuple):
    """The 32 x 32 px that are seen of a whole of `side` px, and the turns of what they are compared with."""

    side: int
    down: int
    right: int
    turns: tuple[int, ...]


# Set by eye on 13,365 ISIC-2017 and HAM10000 images, patients differing, all pairs aligned that looked at all
# alike: the 78 found are each one lesion; from 0.71 downwards come dark spots on pale skin.
SAME_PICTURE = 0.75
SAME_IF_LIKELY = 0.6  # detail that compression took: enough where the second look is above LIKELY_CORRELATION
COARSE_CORRELATION = 0.66  # first look, 16 x 16; 0.62 finds 57 pairs, not 55, among three times as many
CUT_CORRELATION = 0.8  # the same, of a part about the middle in every turn
PLACED_CORRELATION = 0.75  # the same, of a part elsewhere, in one turn
SHIFTED_CORRELATION = 0.67  # second look, 32 x 32, moved by up to MOST_SHIFT_PX
LIKELY_CORRELATION = 0.86
SURE_CORRELATION = 0.9  # above it all pairs of those images also passed the last look
MOST_SHIFT_PX = 4
MOST_LOOKED_AT = 60_000  # pairs that get the last and slow look, the likeliest first: bounds the time
MOST_CANDIDATES = 2_000_000  # bounds the memory and the time, where very many pictures are nearly the same
BLOCK = 512
TURNS = tuple(range(8))  # by quarters, as it is and mirrored: of a square thumbnail each is exact
CUT_SIDES = {34: (0,), 36: TURNS, 38: (0,), 40: TURNS}  # 0.94 to 0.8 are left; the turns are those of the middle
VIEWS = (
    View(32, 0, 0, TURNS),
    *(
        View(side, down, right, turns if down == right == (side - 32) // 2 else (0,))
        for side, turns in CUT_SIDES.items()
        for down, right in product((0, (side - 32) // 2, side - 32), repeat=2)
    ),
)
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
    """Pair the images that show one picture: recoloured, compressed anew, resized, cut, turned by quarters or mirrored.

    thumbnails: uint8 RGB (images, 64, 64, 3), the whole image squashed to the square; of several tables, one array
    after the other, none of which is read into memory as a whole.
    Local contrast (brightness less its surroundings, over its spread, so that colour and light drop out) within
    a disc (so that dark corners drop out) is compared coarsely over all pairs, turns and views, then in its best
    shift; what is not sure by then is aligned by an affine map (Evangelidis and Psarakis 2008,
    doi:10.1109/TPAMI.2008.113) and its finest detail correlated. Pairs come in the order of the images. Other
    photographs of a lesion are mostly not found.
    """
    if len(image_names) < 2:
        return []
    places = [(part, row) for part in thumbnails for row in range(len(part))]
    candidates, correlation = _candidates(thumbnails)
    sure = correlation > SURE_CORRELATION

    def detail_agrees(place: int) -> bool:
        row, other, turn, view = candidates[place].tolist()
        pictures = _grey(_taken(*places[row])), _turned(_grey(_taken(*places[other])), turn)
        least = SAME_IF_LIKELY if correlation[place] > LIKELY_CORRELATION else SAME_PICTURE
        return _aligned_correlation(*pictures, VIEWS[view]) >= least

    unsure = np.flatnonzero(~sure)[:MOST_LOOKED_AT]
    with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter while it aligns
        sure[unsure] = np.fromiter(pool.map(detail_agrees, unsure.tolist()), bool, len(unsure))
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


INSIDE = _disc(32).reshape(16, 2, 16, 2).max(axis=(1, 3)) > 0  # of 16 x 16


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


def _outlines(thumbnails: NDArray[np.uint8], side: int) -> NDArray[np.float16]:
    """Give the local contrast of each thumbnail at `side` px: float16 (images, side, side), to save memory."""
    outlines = np.empty((len(thumbnails), side, side), np.float16)
    for row, thumbnail in enumerate(thumbnails):
        small = cv2.resize(_grey(thumbnail), (side, side), interpolation=cv2.INTER_AREA)
        outlines[row] = _local_contrast(small, 2, 2)
        if row % BLOCK == 0:
            release(thumbnails)
    return outlines


def _seen(outlines: NDArray[np.float16], view: View) -> NDArray[np.float16]:
    """Cut the disc of a view out: float16 (images, 32, 32)."""
    disc = _disc(32).astype(np.float16)
    return outlines[:, view.down : view.down + 32, view.right : view.right + 32] * disc


def _candidates(thumbnails: Sequence[NDArray[np.uint8]]) -> tuple[Int64Array, Float32Array]:
    """Compare every view with every whole picture, and keep what correlates after a shift, the likeliest first.

    Gives int64 (candidates, 4): row, other row, the other's turn, which of VIEWS the row is seen by, each pair once, in
    its best turn and view; and float32 (candidates,), their correlations.
    """
    outlines = np.concatenate([_outlines(part, 32) for part in thumbnails])
    whole = _seen(outlines, VIEWS[0])
    found, correlations, room = [], [], MOST_CANDIDATES
    for number, view in enumerate(VIEWS):
        if outlines.shape[1] != view.side:
            outlines = np.concatenate([_outlines(part, view.side) for part in thumbnails])
        seen = _seen(outlines, view)
        alike = _alike(seen, whole, number, room)
        room -= len(alike)
        correlation = _shifted(seen, whole, alike)
        kept = correlation > SHIFTED_CORRELATION
        found.append(alike[kept])
        correlations.append(correlation[kept])
        if room == 0:
            break
    candidates, best = np.concatenate(found), np.concatenate(correlations)
    order = np.argsort(-best, kind="stable")
    _, first = np.unique(np.sort(candidates[order, :2], axis=1), axis=0, return_index=True)
    likeliest = order[np.sort(first)]
    return candidates[likeliest], best[likeliest]


def _alike(seen: NDArray[np.float16], whole: NDArray[np.float16], number: int, room: int) -> Int64Array:
    """Correlate one view of every picture with every other whole picture at 16 x 16, in the view's turns.

    Gives int64 (candidates, 4) as `_candidates` does, at most `room`; of whole pictures the other comes later.
    """
    rows, pictures = _unit(_coarse(seen)[:, INSIDE]), _coarse(whole)
    turns = VIEWS[number].turns
    least = (CUT_CORRELATION if len(turns) > 1 else PLACED_CORRELATION) if number else COARSE_CORRELATION
    found, products = [], np.empty(BLOCK * len(pictures), np.float32)  # pages once, not for each block
    for turn in turns:
        others = _unit(_turned(pictures, turn)[:, INSIDE])
        for start in range(0, len(rows), BLOCK):
            skipped = 0 if number else start  # with earlier ones a whole picture was compared before
            some, rest = rows[start : start + BLOCK], others[skipped:]
            correlation = products[: len(some) * len(rest)].reshape(len(some), len(rest))
            np.matmul(some, rest.T, out=correlation)
            if number:
                np.fill_diagonal(correlation[:, start:], 0)  # a picture with its own part
            else:
                correlation[np.tril_indices(len(correlation))] = 0
            row, other = np.divmod(np.flatnonzero(correlation > least)[:room], correlation.shape[1])
            kinds = np.full_like(row, turn), np.full_like(row, number)
            found.append(np.stack([row + start, other + skipped, *kinds], axis=1))
            room -= len(row)
    return np.concatenate(found)


def _coarse(outlines: NDArray[np.float16]) -> Float32Array:
    """Halve to 16 x 16; slices are added because a mean over float16 is slow."""
    parts = (outlines[:, down::2, right::2] for down, right in product((0, 1), repeat=2))
    coarse: Float32Array = np.sum([part.astype(np.float32) for part in parts], axis=0)
    return coarse


def _shifted(seen: NDArray[np.float16], whole: NDArray[np.float16], candidates: Int64Array) -> Float32Array:
    """Correlate each candidate in its best shift; a product of Fourier transforms correlates at every shift at once."""
    best = np.zeros(len(candidates), np.float32)
    window = np.arange(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1)
    for turn in TURNS:
        places = np.flatnonzero(candidates[:, 2] == turn)
        for start in range(0, len(places), BLOCK):  # the transforms of all pictures would take a gigabyte
            some = places[start : start + BLOCK]
            row, other = candidates[some, :2].T
            plain = rfft2(_unit_pictures(seen[row].astype(np.float32)))
            turned = rfft2(_turned(_unit_pictures(whole[other].astype(np.float32)), turn))
            shifted = irfft2(plain * turned.conj(), s=(32, 32))
            best[some] = shifted[:, window[:, None], window].max(axis=(1, 2))
    return best


def _to_view(view: View) -> Float32Array:
    """Give the affine map, float32 (2, 3), from the pixels of a thumbnail to those of its view at 64 px."""
    scale = view.side / 32
    start = (scale - 1) / 2  # a pixel's middle is at its half
    return np.array([[scale, 0, start - 2 * view.right], [0, scale, start - 2 * view.down]], np.float32)


def _aligned_correlation(grey: Float32Array, other: Float32Array, view: View) -> float:
    """Move `other` onto the `view` of `grey` by an affine map and correlate their fine detail; -1 where none fits."""
    disc = _disc(64)
    try:
        _, affine = cv2.findTransformECC(
            _detail(grey, 3),
            _detail(other, 3),
            _to_view(view),
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
