"""Every setting with its default, unit and range: a TOML recipe and `--set` in, one resolved configuration out.

A recipe holds only what differs from the defaults below. It knows nothing of what the settings do.
"""

import contextlib
import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from melanoma.errors import UsageError

RECIPES = Path(__file__).parent / "recipes"


class Section(BaseModel):
    """A group of settings: unknown names are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class DataSettings(Section):
    """Which rows of the table are used."""

    licence: str = Field("", max_length=200, description="of the images, for the bundle's card, such as CC BY-NC 4.0")
    attribution: str = Field("", max_length=500, description="who made the images, for the bundle's card")
    limit: int = Field(0, ge=0, description="training images to take, patients whole; 0 takes all")
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="drop: of images that are one picture the first is kept; keep: all, always in one fold"
    )


class BalanceSettings(Section):
    """How melanomas and benign images are evened out for each anatomical site."""

    method: Literal["none", "rows", "weights", "rows_before_folds"] = Field(
        "none",
        description="rows: keep equal numbers, training rows only; weights: draw equally often, throw nothing away; "
        "rows_before_folds: keep equal numbers before the split, as the notebook did",
    )


class FoldSettings(Section):
    """How rows are split for validation; patients and duplicates always stay whole."""

    count: int = Field(1, ge=1, le=20, description="networks to train; 1 is a single split")
    validation_share: float = Field(0.2, gt=0, lt=1, description="share of rows held out where count is 1")
    file: str = Field("", description="a folds.csv to use instead (columns image_name and fold)")


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("it must be odd")
    return value


OddInt = Annotated[int, AfterValidator(_odd)]
FilterName = Literal["shades_of_grey", "remove_hair", "no_noise", "eroded"]


class ImageSettings(Section):
    """How an image becomes what the network sees: resized, then filtered, once, into the cache."""

    size_px: int = Field(224, ge=32, le=2048, description="side of the square that the network sees, pixels")
    crop: Literal["centre", "squash"] = Field(
        "squash", description="centre: keep the aspect and cut the middle square; squash: keep everything"
    )
    filters: tuple[FilterName, ...] = Field((), description="filters applied after resizing, in this order")
    blur_kernel_px: OddInt = Field(5, ge=1, le=99, description="side of no_noise's Gaussian kernel, odd, pixels")
    erosion_kernel_px: OddInt = Field(3, ge=1, le=99, description="side of eroded's square, pixels")


class ModelSettings(Section):
    """The network."""

    backbone: str = Field("InceptionResNetV2", description="a name of melanoma.models.backbones.BACKBONES")
    weights: str = Field("imagenet", description="imagenet, none, or the path of a .weights.h5 file without top")
    frozen_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the backbone's layers, from the image on, that keep the weights they have",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the last layer")
    metadata: bool = Field(False, description="a second tower that sees age, sex and site")
    hidden_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of training images whose age, sex and site are hidden, so that it can do without",
    )


class LossSettings(Section):
    """What training minimises."""

    name: str = Field("focal", description="a name of melanoma.models.losses.LOSSES")
    gamma: float = Field(2.0, ge=0, le=10, description="focal: how much easy examples are played down")
    alpha: float = Field(0.25, gt=0, lt=1, description="focal: weight of melanomas; benign images get 1 - alpha")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="cross_entropy: targets become this far from 0 and 1")
    diagnosis_share: float = Field(
        0.0, ge=0, le=10, description="weight of a second task while training: to name the diagnosis, where it is known"
    )


class AugmentSettings(Section):
    """Random changes of each training image, drawn anew in every epoch."""

    flip: bool = Field(True, description="mirror left-right and up-down")
    turn_degrees: float = Field(180.0, ge=0, le=180, description="turn by up to this angle either way")
    zoom: float = Field(0.1, ge=0, lt=0.9, description="zoom by up to this share in or out")
    stretch: float = Field(
        0.0, ge=0, lt=0.9, description="make one side longer and the other shorter, each by up to this share"
    )
    shift: float = Field(0.0, ge=0, lt=0.5, description="move by up to this share of the side either way")
    brightness: float = Field(0.0, ge=0, lt=1, description="shift brightness by up to this share of 255")
    contrast: float = Field(0.0, ge=0, lt=1, description="change contrast by up to this share")
    colour: float = Field(
        0.0, ge=0, lt=1, description="make each channel stronger or weaker by up to this share, as another light does"
    )


class TrainSettings(Section):
    """The optimizer and its stopping."""

    epochs: int = Field(100, ge=1, le=10_000, description="most passes over the training rows")
    batch_size: int = Field(32, ge=1, le=4096, description="images a step")
    drawn_from_px: int = Field(
        0,
        ge=0,
        le=2048,
        description="side of the images that training images are drawn from, turned and zoomed; larger than they are, "
        "but not more than twice, it keeps them sharp; 0: images.size_px",
    )
    sizes_px: tuple[Annotated[int, Field(ge=32, le=2048)], ...] = Field(
        (), description="sides that images are trained at, an equal share of the epochs each; empty: images.size_px"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="sgd: with Nesterov's momentum of 0.9")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="the optimizer's learning rate at its highest")
    schedule: Literal["inverse_time", "cosine", "constant"] = Field(
        "cosine",
        description="inverse_time: learning_rate / (1 + learning_rate / epochs * step), Keras' old decay; "
        "cosine: up over warmup_epochs, then down to 0",
    )
    warmup_epochs: float = Field(0.5, ge=0, description="cosine: epochs in which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="decoupled weight decay a step, times the learning rate")
    monitor: Literal["val_auc", "val_accuracy", "val_loss", "none"] = Field(
        "val_auc", description="what early stopping watches and which epoch's weights are kept; none: the last one's"
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share that a moving average of the weights keeps at a step; above 0 it is what is judged and kept",
    )
    patience: int = Field(10, ge=1, description="epochs without a better value before training stops")
    precision: Literal["auto", "float32", "mixed_bfloat16", "float64"] = Field(
        "auto",
        description="auto: mixed_bfloat16 where the device has it; float64, on JAX alone, is slow: to prove that two "
        "ways to compute are one",
    )


class EvaluateSettings(Section):
    """How results are judged."""

    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which the answer is melanoma")
    engine: Literal["auto", "openvino", "onnxruntime"] = Field(
        "auto", description="what scores; auto: openvino where it is installed and there is no GPU"
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="of scoring; auto: bfloat16 where the processor multiplies it faster, else float32; int8 is faster "
        "still, and what it loses on held-out images stands in the bundle's model.json",
    )
    storage: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="how a bundle keeps its weights: float16 takes half of the room, int8, with small kernels in "
        "float16, a little over a quarter; they are computed with in float32 all the same, and what that loses on "
        "held-out images stands in the bundle's model.json",
    )
    views: Literal[1, 8] = Field(1, description="test-time augmentation: 8 averages over all quarter turns and mirrors")
    calibration: Literal["auto", "temperature", "isotonic", "none"] = Field(
        "auto", description="how probabilities are mended; auto: by what has the lowest log loss on other patients"
    )
    prevalence: float = Field(
        0.0, ge=0, lt=1, description="share of melanomas where the answers will be used; 0: as in the data"
    )
    coverage: float = Field(
        0.9, gt=0.5, lt=1, description="share of each class whose conformal answer must not exclude the truth"
    )
    clinical: bool = Field(
        False, description="also weigh age, sex and site, where they are known, beside what the networks see"
    )
    context: bool = Field(False, description="also give scores relative to the same patient's other images")
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="resamples of patients for intervals")


class Settings(Section):
    """One resolved configuration."""

    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    data: DataSettings = DataSettings()
    balance: BalanceSettings = BalanceSettings()
    folds: FoldSettings = FoldSettings()
    images: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    augment: AugmentSettings = AugmentSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @property
    def sides_px(self) -> tuple[int, ...]:
        """The sides that the network is trained at, in their order, pixels."""
        return self.train.sizes_px or (self.images.size_px,)

    @property
    def largest_px(self) -> int:
        """The side of the images that training images are drawn from, pixels."""
        return self.train.drawn_from_px or self.images.size_px

    @property
    def any_size(self) -> bool:
        """Whether the network also sees images of another side than it answers for."""
        return {*self.sides_px, self.largest_px} != {self.images.size_px}

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        """Refuse what each setting allows and two together do not."""
        train, model, source = self.train, self.model, self.largest_px
        sides = (*self.sides_px, self.images.size_px)
        if max(sides) > source:
            raise ValueError(
                f"{max(sides)} px cannot be drawn from images of {source} px: raise train.drawn_from_px, or lower "
                "images.size_px or train.sizes_px"
            )
        if source > 2 * min(sides):
            raise ValueError(
                f"{min(sides)} px drawn from images of {source} px would be grainy: train.drawn_from_px may be at most "
                "twice what is drawn"
            )
        if source != self.images.size_px and {"no_noise", "eroded"} & set(self.images.filters):
            raise ValueError("no_noise and eroded count in pixels, so train.drawn_from_px must be left at 0")
        if len(train.sizes_px) > train.epochs:
            raise ValueError(f"train.sizes_px has {len(train.sizes_px)} sides for train.epochs = {train.epochs}")
        if model.hidden_share and not model.metadata:
            raise ValueError("model.hidden_share hides age, sex and site, which model.metadata = false does without")
        if model.frozen_share and model.weights == "none":
            raise ValueError("model.frozen_share would keep random weights: give model.weights")
        return self


def recipe_path(recipe: str) -> Path:
    """Find a recipe by its name in the package or by its path.

    Raises UsageError for a name that is neither, with the known ones.
    """
    known = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    if recipe in known:
        return known[recipe]
    with contextlib.suppress(OSError, ValueError):  # what cannot be the name of a file
        if Path(recipe).is_file():
            return Path(recipe)
    raise UsageError(f"there is no recipe {recipe!r}; known: {', '.join(known)}, or the path of a TOML file")


def load_settings(recipe: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a recipe, apply `section.key=value` overrides in their order, and check every value.

    Raises UsageError naming the setting, the value and, for an unknown name, the nearest one.
    """
    path = recipe_path(str(recipe))
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:  # not TOML, not text, a number of 5,000 digits, brackets without end
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return settings_from(values, overrides)


def settings_from(values: dict[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Check plain nested values, `section.key=value` put over them, and return the resolved configuration.

    Raises UsageError as `load_settings` does.
    """
    for override in overrides:
        _apply(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(_sentence(dict(fault)) for fault in error.errors())) from error


def to_toml(settings: Settings) -> str:
    """Write every setting, defaults included, as TOML that `load_settings` reads back equal."""
    return tomli_w.dumps(settings.model_dump(mode="json"))


def describe() -> list[tuple[str, str, str]]:
    """List every setting as (section.key, default, description), in order."""
    rows = []
    for name, field in Settings.model_fields.items():
        if not isinstance(field.default, Section):
            rows.append((name, str(field.default), field.description or ""))
            continue
        for key, inner in type(field.default).model_fields.items():
            rows.append((f"{name}.{key}", str(inner.default), inner.description or ""))
    return rows


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set takes section.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a bare word or path needs no quotes
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{key} is a setting, not a section, in {override!r}")
        values = inner
    values[keys[-1]] = value


def _sentence(fault: dict[str, Any]) -> str:
    if not fault["loc"]:  # of several settings together, and says which
        return str(fault["ctx"]["error"])
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"setting {name} = {fault.get('input')!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
    known = [row[0] for row in describe()]
    last = name.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(name, known, 1, 0.5) or [row for row in known if row.split(".")[-1] == last]
    hint = f"; did you mean {near[0]}?" if near else f"; known sections: {', '.join(Settings.model_fields)}"
    return f"there is no setting {name}{hint}"
