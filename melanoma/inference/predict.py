"""Pictures to answers by a bundle: test-time augmentation, several networks, calibration, words.

A Predictor has scikit-learn's manners: `predict_proba`, `predict`, `classes_`. `answer` says more: what cannot be
judged and why, when to refer, and in words what a probability is worth.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma import RESEARCH_ONLY
from melanoma.data.encode import Encoder
from melanoma.errors import DataError, MelanomaError, ModelError, UnreachableError, UsageError
from melanoma.evaluation.clinical import Clinical
from melanoma.evaluation.recalibration import rebased
from melanoma.images.decode import as_image, decode_and_tell
from melanoma.images.filters import THUMBNAIL_PX, prepare, process
from melanoma.images.photograph import UInt8Array
from melanoma.inference.bundle import Bundle, read_bundle
from melanoma.inference.engine import Choice, Engine, choose
from melanoma.inference.scoring import dihedral, laid_back, sigmoid
from melanoma.inference.words import ERROR, NOT_ASSESSABLE, Answer, Details, in_words

Float64Array = NDArray[np.float64]
Source = Path | str | bytes | UInt8Array
BOX = Path(__file__).parents[1] / "box"  # the bundle that comes with the package
FEW = 8  # pictures for which every core works on one at a time: they are answered before many could be under way
CHUNK = 2  # times an engine's batch, that a thread reads, judges and tells in one go: fewer would cost 2 % more


@dataclass(frozen=True)
class Picture:
    """A picture that was read: as the network of each run sees it, uint8 (size_px, size_px, 3), and as a thumbnail.

    remarks: what was done to its pixels.
    """

    name: str
    size: tuple[int, int]
    images: list[UInt8Array]
    thumbnail: UInt8Array
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """What the networks say of pictures: score float64 (n,); features by network; activation_map (n, rows, columns)."""

    score: Float64Array
    features: list[NDArray[np.float32]]
    activation_map: NDArray[np.float32] | None


class Predictor:
    """A bundle, loaded once, that answers for pictures.

    classes_: int64 (2,), benign and melanoma as 0 and 1. few: whether it was loaded for a few pictures at a time.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        *,
        engine: str = "auto",
        precision: str = "float32",
        views: int | None = None,
        few: bool = False,
    ) -> None:
        """Load a bundle: its folder, a run's folder, or hf://owner/name@revision; by default the package's own.

        engine, precision: as for `choose`; float32 gives the same answers on every machine. views: 1 or 8 ways to lay
        each picture down, by default those that the bundle was validated with. few: for a few pictures at a time.
        Raises ModelError where the bundle is missing, damaged or was never judged on held-out images.
        """
        self.bundle = open_model(model)
        if self.bundle.answers is None:
            raise ModelError(f"{model} was never judged on held-out images; first: melanoma export RUN")
        if views is not None and (type(views) is not int or views not in (1, 8)):
            raise UsageError(f"views are 1 or 8, not {views}")
        self.answers, self.gate, self._views = self.bundle.answers, self.bundle.gate, views
        self.few, self.choice = few, _chosen(engine, precision, few)
        self.engines = [Engine(path, self.choice, few=few) for path in self.bundle.networks_in(self.choice.precision)]
        self.classes_ = np.array([0, 1])
        self._check()

    def _check(self) -> None:
        """Let every network judge a grey picture: what does not go together shows now. Raises ModelError."""
        networks = self.bundle.description["networks"]
        for number, (network, engine) in enumerate(zip(networks, self.engines, strict=True)):
            run, encoder = self.bundle.runs[network["run"]], self.bundle.encoders[number]
            side = run["images"].size_px
            metadata = np.zeros((1, len(encoder.feature_names)), np.float32) if run["metadata"] else None
            try:
                output = engine.judge(np.full((1, side, side, 3), 128, np.uint8), metadata)
                if self.gate is not None:
                    self.gate.likeness[number].distance(output.features)
            except Exception as error:  # the engines raise untyped families of their own
                told = f"{network['file']} does not go with the bundle's model.json or gate"
                raise ModelError(f"{self.bundle.folder}: {told}: {error}") from error

    @property
    def threads(self) -> int:
        """How many threads are well used: as many as the engine computes at once, and others that read meanwhile."""
        computing = self.engines[0].at_once
        return computing + max(1, computing // 2)

    @property
    def uses_metadata(self) -> bool:
        """Whether age, sex and site make a difference, to a network or beside its score."""
        return self.answers["clinical"] is not None or any(run["metadata"] for run in self.bundle.runs)

    # ---- scikit-learn's manners ------------------------------------------------------------------------------------

    def predict_proba(self, images: Sequence[Source] | Source, details: Details | None = None) -> Float64Array:
        """Return the calibrated probabilities of benign and melanoma: float64 (n, 2), rows that sum to 1.

        images: paths, the bytes of files, or arrays uint8 (height, width, 3) RGB. Every picture is judged, also what
        `answer` would turn away. Raises DataError for the first picture that cannot be read.
        """
        scores = self._scores(images, details)
        melanoma = self._calibrated(scores, details or Details())
        return np.column_stack([1 - melanoma, melanoma])

    def predict(self, images: Sequence[Source] | Source, details: Details | None = None) -> NDArray[np.int64]:
        """Return labels at the bundle's operating point: int64 (n,), 1 for melanoma; else as `predict_proba`."""
        return np.asarray(self._scores(images, details) >= self.answers["threshold"], np.int64)

    def answer(
        self, images: Sequence[Source] | Source, details: Details | None = None, *, maps: bool = True
    ) -> list[Answer]:
        """Say of each picture what is known, in order; a picture that cannot be read gets an answer that says so."""
        given = _as_list(images)
        return list(self.stream([(_name_of(one, number), one, details) for number, one in enumerate(given)], maps=maps))

    def stream(self, items: Iterable[tuple[str, Any, Details | None]], *, maps: bool = False) -> Iterator[Answer]:
        """Answer for any number of pictures in their order, a few at a time on every core, in bounded memory.

        items: name, picture, details. A picture may also be a function that gives its bytes.
        """
        waiting: deque[Future[list[Answer]]] = deque()
        rest, size, threads = iter(items), CHUNK * self.engines[0].batch, self.threads
        pool = ThreadPoolExecutor(threads)
        try:
            while True:
                while len(waiting) < 2 * threads and (chunk := list(islice(rest, size))):
                    waiting.append(pool.submit(self.answer_batch, chunk, maps))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    # ---- the steps -------------------------------------------------------------------------------------------------

    def answer_batch(self, items: Sequence[tuple[str, Any, Details | None]], maps: bool = False) -> list[Answer]:
        """Answer for a few pictures on the caller's thread.

        Raises UnreachableError where a store cannot be reached, as that says nothing of the picture.
        """
        pictures: list[Picture] = []
        answers: list[Answer | int] = []
        for name, source, _ in items:
            try:
                pictures.append(self.read(name, source))
                answers.append(len(pictures) - 1)
            except UnreachableError:
                raise
            except MelanomaError as error:
                answers.append(Answer(name, ERROR, error=str(error), words="The picture could not be read."))
        if not pictures:
            return [one for one in answers if isinstance(one, Answer)]
        details = [
            known or Details() for (_, _, known), one in zip(items, answers, strict=True) if isinstance(one, int)
        ]
        judged = self.judge(pictures, details, maps=maps)
        reasons = self._reasons(pictures, judged)
        said = [
            self._said(judged, number, picture, details[number], reasons[number])
            for number, picture in enumerate(pictures)
        ]
        return [said[one] if isinstance(one, int) else one for one in answers]

    def read(self, name: str, source: Any) -> Picture:
        """Decode a picture as the cache of a run does; raises DataError where it cannot be read."""
        content = source() if callable(source) else source
        if not isinstance(content, str | bytes | bytearray | Path | np.ndarray):
            kind = type(content).__name__
            raise DataError(f"{name} is a path, the bytes of a file or an array (height, width, 3), not {kind}")
        sides = [run["images"].size_px for run in self.bundle.runs]
        if isinstance(content, np.ndarray):
            pixels, remarks = as_image(content), list[str]()
            size = pixels.shape[1], pixels.shape[0]
        else:
            content = Path(content) if isinstance(content, str) else content
            content = bytes(content) if isinstance(content, bytearray) else content
            pixels, size, remarks = decode_and_tell(content, max(*sides, THUMBNAIL_PX), name)
        images = [prepare(pixels, run["images"]) for run in self.bundle.runs]
        return Picture(name, size, images, process(pixels, THUMBNAIL_PX), remarks)

    def judge(self, pictures: Sequence[Picture], details: Sequence[Details], *, maps: bool = False) -> Judged:
        """Let every network judge pictures: the mean over views, then over a run's networks, then over runs.

        What is known of the patient is weighed last, where the bundle learned to.
        """
        by_run: list[list[Float64Array]] = [[] for _ in self.bundle.runs]
        features, activation = [], []
        for network, engine, encoder in zip(
            self.bundle.description["networks"], self.engines, self.bundle.encoders, strict=True
        ):
            run = self.bundle.runs[network["run"]]
            views = self._views or run["views"]
            images = np.stack([picture.images[network["run"]] for picture in pictures])
            metadata = np.tile(encoder.features(_table(details)), (views, 1)) if run["metadata"] else None
            output = engine.judge(np.concatenate(dihedral(images, views)), metadata)
            by_run[network["run"]].append(sigmoid(output.logit.reshape(views, -1).mean(axis=0)))
            features.append(output.features[: len(pictures)])  # of the picture as it lies
            if maps:
                shares = output.activation_map.reshape(views, len(pictures), *output.activation_map.shape[1:])
                activation.append(laid_back(shares).mean(axis=0))
        scores = np.mean([np.mean(of_run, axis=0) for of_run in by_run], axis=0)
        if self.answers["clinical"] is not None:
            scores = self.answers["clinical"].apply(scores, _table(details))
        return Judged(scores, features, mean_map(activation) if maps else None)

    @property
    def source(self) -> dict[str, Any]:
        """Tell where an answer comes from, as plain values: it goes with every one of them."""
        area = self.bundle.description["figures"]["auc"]
        auc = {name: area[name] for name in ("value", "low", "high")}
        return {
            "model": self.bundle.name, "model_sha256": self.bundle.sha256, "model_auc": auc,
            "model_limits": self.bundle.description["figures"]["limits"], "use": RESEARCH_ONLY,
        }  # fmt: skip

    @property
    def worth(self) -> str:
        """Say in a line which model answers and what it reached."""
        area = self.bundle.description["figures"]["auc"]
        if area["value"] is None:
            return f"model {self.bundle.name}, whose AUC is not known: too few images were held out"
        between = "" if area["low"] is None else f" ({area['low']:.3f} to {area['high']:.3f})"
        return f"model {self.bundle.name}: AUC {area['value']:.3f}{between} on held-out patients"

    @property
    def operating_point(self) -> dict[str, Any] | None:
        """The validated point that labels go by; None where the data was too small for one."""
        wanted, points = self.answers["operating_point"], self.answers["operating_points"]
        return next((point for point in points if wanted is not None and point["wanted_sensitivity"] == wanted), None)

    def remarks(self, details: Details) -> list[str]:
        """Remark on details that this bundle does not use or does not know, and on other views than were validated."""
        views = {run["views"] for run in self.bundle.runs}
        found = []
        if self._views not in (None, *views) or (self._views is not None and len(views) > 1):
            validated = " or ".join(map(str, sorted(views)))
            found.append(
                f"probabilities and limits were validated with {validated} views of a picture, not {self._views}"
            )
        known = [name for name in ("age_years", "sex", "site") if getattr(details, name) is not None]
        if known and not self.uses_metadata:
            found.append(f"this model looks at the picture alone: {', '.join(known)} made no difference")
        if self.answers["clinical"] is not None and not known:
            found.append("the model's figures are with age, sex and site, of which none was told")
        for name in ("sex", "site"):
            word = getattr(details, name)
            if word is not None and not all(one.knows(name, word) for one in self._learned):
                found.append(f"the {name} {word!r:.60} was not seen in training and is taken as unknown")
        return found

    @property
    def _learned(self) -> list[Encoder | Clinical]:
        """What knows the words of sex and site: the encoders of networks that look at them, and what weighs them."""
        pairs = zip(self.bundle.description["networks"], self.bundle.encoders, strict=True)
        encoders = [encoder for network, encoder in pairs if self.bundle.runs[network["run"]]["metadata"]]
        return [*encoders, *filter(None, [self.answers["clinical"]])]

    def calibrated(self, score: float, details: Details | None = None) -> float:
        """Return the calibrated probability of one score, for the prevalence where it is used."""
        return float(self._calibrated(np.array([score]), details or Details())[0])

    def _reasons(self, pictures: Sequence[Picture], judged: Judged) -> list[list[str]]:
        """Tell why each picture cannot be judged; without a gate every one can."""
        if self.gate is None:
            return [[] for _ in pictures]
        thumbnails = np.stack([picture.thumbnail for picture in pictures])
        images = [picture.images[0] for picture in pictures]
        return self.gate.reasons([picture.size for picture in pictures], thumbnails, images, judged.features)

    def _said(self, judged: Judged, number: int, picture: Picture, details: Details, reasons: list[str]) -> Answer:
        raw = float(judged.score[number])
        shares = None if judged.activation_map is None else judged.activation_map[number]
        (width, height), remarks = picture.size, [*picture.remarks, *self.remarks(details)]
        seen = Answer(picture.name, "", width=width, height=height, remarks=remarks, activation_map=shares)
        if reasons:
            words = f"Not assessable: {'; '.join(reasons)}."
            return replace(seen, status=NOT_ASSESSABLE, words=words, reasons=reasons)
        status = str(self.answers["conformal"].answer(np.array([raw]))[0]) if self.answers["conformal"] else "refer"
        probability, label = self.calibrated(raw, details), int(raw >= self.answers["threshold"])
        words = in_words(raw, status, self.answers["threshold"], self.operating_point)
        return replace(seen, status=status, probability=probability, score=raw, label=label, words=words)

    def _scores(self, images: Sequence[Source] | Source, details: Details | None) -> Float64Array:
        given = _as_list(images)

        def scored(start: int) -> Float64Array:
            some = range(start, min(start + size, len(given)))
            pictures = [self.read(_name_of(given[number], number), given[number]) for number in some]
            return self.judge(pictures, [details or Details()] * len(pictures)).score

        size = self.engines[0].batch
        with ThreadPoolExecutor(self.threads) as pool:
            return np.concatenate([np.empty(0), *pool.map(scored, range(0, len(given), size))])

    def _calibrated(self, scores: Float64Array, details: Details) -> Float64Array:
        melanoma, own = self.answers["calibrator"].apply(scores), self.answers["prevalence_of_the_data"]
        wanted = details.prevalence or self.answers["prevalence"]
        if own is None or wanted is None or not (0 < own < 1 and 0 < wanted < 1):
            return np.asarray(melanoma)
        return rebased(melanoma, own, wanted)


def open_model(model: Path | str | None = None) -> Bundle:
    """Open a bundle by its folder, a run's folder, or an address such as hf://owner/name@revision.

    By default it is the model in the box, which comes with the package. Raises ModelError where it cannot be had.
    """
    if model is None:
        if not BOX.is_dir():
            raise ModelError("no model comes with this installation; give a bundle or a run: --model FOLDER")
        return read_bundle(BOX)
    if str(model).startswith("hf:"):
        from melanoma.inference.hub import fetch_bundle

        return read_bundle(fetch_bundle(str(model)))
    return read_bundle(Path(model))


def _chosen(engine: str, precision: str, few: bool) -> Choice:
    # OpenVINO takes longer to plan a network than ONNX Runtime takes to judge a few pictures
    if few and engine == "auto" and precision == "float32":
        return choose("onnxruntime", "float32")
    return choose(engine, precision)


def _table(details: Sequence[Details]) -> Mapping[str, Sequence[Any]]:
    ages = [np.nan if one.age_years is None else one.age_years for one in details]
    return {"age_years": ages, "sex": [one.sex for one in details], "site": [one.site for one in details]}


def _as_list(images: Iterable[Source] | Source) -> list[Any]:
    """List what was given as one picture or several; raises UsageError for what is neither."""
    if isinstance(images, str | bytes | bytearray | Path):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim in (3, 4):
        return [images] if images.ndim == 3 else list(images)
    if isinstance(images, np.ndarray | Mapping) or not isinstance(images, Iterable) or hasattr(images, "read"):
        kind = f"an array of {images.ndim} dimensions" if isinstance(images, np.ndarray) else type(images).__name__
        raise UsageError(f"images are paths, the bytes of files or arrays (height, width, 3), not {kind}")
    return list(images)


def _name_of(source: Any, number: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"image {number}"


def mean_map(maps: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average maps of several networks; where their sizes differ, at the largest."""
    import cv2

    side = max(one.shape[1] for one in maps)
    alike = [
        np.stack([cv2.resize(lesion, (side, side), interpolation=cv2.INTER_LINEAR) for lesion in one])
        if one.shape[1] != side
        else one
        for one in maps
    ]
    return np.asarray(np.mean(alike, axis=0), np.float32)
