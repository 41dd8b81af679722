"""Recipes and settings."""

import tomllib

import pytest

from melanoma.config import RECIPES, load_settings, recipe_path, settings_from, to_toml
from melanoma.errors import UsageError
from melanoma.models.backbones import BACKBONES
from melanoma.models.losses import LOSSES

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_read_and_names_things_that_exist(name: str) -> None:
    settings = load_settings(name)
    assert settings.model.backbone in BACKBONES
    assert settings.loss.name in LOSSES


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"notebook"}))  # which is spelled out, since it is history
def test_a_recipe_holds_only_what_differs_from_the_defaults(name: str) -> None:
    defaults, found = settings_from({}).model_dump(), load_settings(name).model_dump()
    for section, inner in tomllib.loads(recipe_path(name).read_text()).items():
        if not isinstance(inner, dict):
            assert found[section] != defaults[section], section
            continue
        for key in inner:
            assert found[section][key] != defaults[section][key], f"{section}.{key}"


def test_the_notebook_recipe_is_the_notebook() -> None:
    settings = load_settings("notebook")
    assert settings.model.backbone == "InceptionResNetV2"
    assert settings.loss.name == "focal"
    assert settings.balance.method == "rows_before_folds"
    assert (settings.train.epochs, settings.train.learning_rate) == (100, 1e-4)
    assert (settings.train.monitor, settings.train.schedule) == ("val_accuracy", "inverse_time")
    assert (settings.images.size_px, settings.images.filters, settings.images.blur_kernel_px) == (299, ("no_noise",), 5)


def test_a_resolved_configuration_reads_back_equal() -> None:
    overrides = ["train.epochs=3", "images.filters=['remove_hair', 'eroded']", "model.weights=none"]
    settings = load_settings("notebook", overrides)
    assert settings_from(tomllib.loads(to_toml(settings))) == settings
    assert settings.train.epochs == 3
    assert settings.images.filters == ("remove_hair", "eroded")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "did you mean train.epochs"),
        ("epochs=3", "did you mean train.epochs"),
        ("tran.epochs=3", "did you mean train.epochs"),
        ("train.epochs=many", "train.epochs = 'many'"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.epochs.x=0", "epochs is a setting, not a section"),
        ("train", "section.key=value"),
        ("images.blur_kernel_px=4", "images.blur_kernel_px = 4"),
        ("train.warmup_epochs=inf", "train.warmup_epochs"),
        ("images.filters=['sharpen']", "images.filters"),
    ],
)
def test_a_wrong_override_is_one_clear_sentence(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        load_settings("demo", [override])


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="known: box, box_mobilenet, cpu, demo, gpu, notebook"):
        load_settings("laptop")
