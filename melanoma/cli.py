"""The command line: options, one call, print. Results go to stdout, remarks to stderr.

Heavy imports stand inside the commands, so that `--help` is quick.
"""

import json as json_format
import shlex
import signal
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from melanoma import RESEARCH_ONLY
from melanoma.ending import ended
from melanoma.errors import DataError, UsageError, printable
from melanoma.files import read_json
from melanoma.options import (
    Address,
    Age,
    Blended,
    Data,
    Devices,
    Drawn,
    Json,
    Judged,
    Model,
    Name,
    On,
    Out,
    Overrides,
    Prevalence,
    Recipe,
    RunFolder,
    RunOrFile,
    Runs,
    Sex,
    Site,
    Views,
    here,
    here_or_hub,
)

_resumable: list[Path] = []  # the run at work: an interrupt tells how to go on with it

app = App(
    name="melanoma",
    help="Train, judge and use melanoma classifiers on skin-lesion photographs.",
    help_epilogue=RESEARCH_ONLY,
    version=lambda: version("melanoma"),
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)


@app.command
def run(
    data: Data,
    /,
    *,
    recipe: Recipe = None,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    devices: Devices = None,
    json: Json = False,
) -> None:
    """Do the whole job: from a dataset folder to networks, a report and a submission file."""
    from melanoma import pipeline

    with pipeline.training_on(devices):
        begun = _started(pipeline.start(data, recipe, overrides or (), name=name, runs=runs))
        pipeline.finish(begun)
    _print_result(begun, json)


@app.command
def demo(*, overrides: Overrides = None, name: Name = None, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Do the whole job on the embedded dataset of drawn lesions, in a few minutes on two cores."""
    from melanoma import pipeline
    from melanoma.data.synthetic import VERSION, make_dataset

    data = runs / f"demo-data-{VERSION}"
    if not data.exists():
        print(f"drawing the embedded dataset into {data}", file=sys.stderr)
        make_dataset(data)
    begun = _started(pipeline.start(data, "demo", overrides or (), name=name, runs=runs))
    pipeline.finish(begun)
    _print_result(begun, json)


@app.command
def check(
    data: Data,
    /,
    *,
    images: Annotated[
        bool, Parameter(help="Also decode and compare the images; without them, the tables alone.")
    ] = True,
    sizes: Annotated[
        Path | None,
        Parameter(help="Without images: a CSV with image_name, width, height, in pixels, of the originals."),
    ] = None,
    folds: Annotated[
        Path | None, Parameter(help="A CSV with image_name, fold that must keep each lesion whole.")
    ] = None,
    features: Annotated[
        str, Parameter(help="Columns that somebody trains on, with commas between: is one of them the answer?")
    ] = "",
    submission: Annotated[Path | None, Parameter(help="A competition file to hold against the test table.")] = None,
    recipe: Annotated[
        str, Parameter(help="The recipe whose image settings are used: its runs reuse the cache.")
    ] = "cpu",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    json: Json = False,
) -> None:
    """Find what is wrong with a dataset: bad rows, missing images, duplicates, leaks, and shortcuts to the answer.

    Errors end with exit code 1; remarks are what a run deals with by itself.
    """
    from melanoma.check import check_data, summary
    from melanoma.config import load_settings
    from melanoma.runs import CACHE
    from melanoma.training.progress import counting

    found = check_data(
        data,
        load_settings(recipe, overrides or ()),
        runs / CACHE,
        images=images,
        sizes=sizes,
        folds=folds,
        features=[name for name in features.split(",") if name.strip()],
        submission=submission,
        counting=counting,
    )
    print(json_format.dumps(found.to_json(), indent=2, ensure_ascii=False) if json else summary(found))
    if errors := len(found.of("error")):
        raise DataError(f"{data} has {errors} error{'s' * (errors > 1)}; see above")


@app.command
def prepare(
    data: Data,
    /,
    *,
    recipe: Annotated[str, Parameter(help="The recipe whose image settings are used.")] = "cpu",
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    on: On = None,
    address: Address = None,
) -> None:
    """Decode and filter every image once, into the cache that runs with the same image settings reuse."""
    from melanoma.cluster import spreading
    from melanoma.config import load_settings
    from melanoma.data.records import read_dataset, take
    from melanoma.prepare import prepare_images, prepare_larger
    from melanoma.runs import CACHE
    from melanoma.training.progress import counting

    settings = load_settings(recipe, overrides or ())
    dataset = read_dataset(data)
    table = take(dataset.train, settings.data.limit, settings.seed)
    with spreading(on, address) as spread:
        caches = prepare_images(dataset, table, settings.images, runs / CACHE, counting, spread=spread)
        larger = prepare_larger(dataset, table, settings, runs / CACHE, counting, spread=spread)
    print("\n".join(str(cache.folder) for cache in (*caches, larger) if cache is not None))


@app.command
def train(
    data: Data,
    /,
    *,
    recipe: Recipe = None,
    overrides: Overrides = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    devices: Devices = None,
) -> None:
    """Train only: prepare the data and train each fold's network; `resume` does the rest."""
    from melanoma import pipeline

    with pipeline.training_on(devices):
        begun = _started(pipeline.start(data, recipe, overrides or (), name=name, runs=runs))
        with pipeline.holding(begun):
            settings = begun.settings()
            pipeline.train(begun, settings, pipeline.reopen(begun, settings))
    if _leads():
        print(begun.folder)


@app.command
def resume(run: RunFolder, /, *, devices: Devices = None, json: Json = False) -> None:
    """Go on with a run that was interrupted, from where it stands to its report."""
    from melanoma import pipeline

    with pipeline.training_on(devices):
        opened = _open(run)
        pipeline.finish(opened)
    _print_result(opened, json)


@app.command
def export(
    runs: Annotated[list[Path], Parameter(help="A run's folder; several make one bundle that answers by their mean.")],
    /,
    *,
    to: Annotated[
        str | None,
        Parameter(
            converter=here_or_hub,
            help="Where the bundle goes as well: a folder, or hf://owner/name on the Hugging Face hub.",
        ),
    ] = None,
) -> None:
    """Write trained networks as a bundle that answers without a deep-learning framework, and judge it.

    It is proven equal to the trained networks, and holds all that was learned of held-out images. Of several runs their
    mean is judged, by the first one's evaluate settings; its report is written beside the bundle, into FOLDER-report.
    """
    from melanoma import pipeline
    from melanoma.inference.bundle import check_place

    if len(runs) > 1:
        if to is None or to.startswith("hf:"):
            raise UsageError("several runs make one bundle in a folder of its own: give --to FOLDER, then publish that")
        print(pipeline.export_runs([_open(run) for run in runs], Path(to)).folder)
        return
    if to is not None and not to.startswith("hf:"):
        check_place(Path(to))  # before the work
    if (runs[0] / "SHA256SUMS").is_file() and to is not None:  # a bundle, to be published or copied
        print(pipeline.publish(runs[0], to))
        return
    opened = _open(runs[0])
    with opened.held():
        settings = opened.settings()
        pipeline.export_judged(opened, settings, pipeline.reopen(opened, settings))
    print(pipeline.publish(opened.folder, to) if to else opened.bundle)


@app.command
def evaluate(
    run: RunOrFile,
    /,
    *,
    data: Annotated[
        Path | None,
        Parameter(converter=here, help="For a CSV: the dataset folder whose train.csv holds its images and the truth."),
    ] = None,
    sizes: Annotated[
        Path | None, Parameter(help="For a CSV: image_name, width, height of the originals, pixels.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(converter=here, help="For a CSV: the folder of the report. Default: beside it.")
    ] = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Judge held-out predictions again: figures, report, model card. Of a run, or of anybody's CSV."""
    if run.is_file():
        _print_result(_judged_file(run, data, sizes, out, overrides or ()), json)
        return
    if data or sizes or out:
        raise UsageError("--data, --sizes and --out go with a CSV of predictions, not with a run")
    if other := [one for one in overrides or () if not one.startswith("evaluate.")]:
        raise UsageError(
            f"--set {other[0]}: a run that is trained can only be judged otherwise, by evaluate.* settings"
        )
    from melanoma import bundling, pipeline

    opened = _open(run)
    with opened.held():
        settings = opened.settings(overrides or ())
        prepared = pipeline.reopen(opened, settings)
        bundling.export(opened, settings, prepared)
        pipeline.score_run(opened, settings, prepared)
        pipeline.evaluate(opened, settings, prepared)
        pipeline.seal(opened, settings, prepared)
    _print_result(opened, json)


@app.command
def compare(first: Judged, second: Judged, /, *, json: Json = False) -> None:
    """Tell which of two runs ranks the same held-out images better, with paired intervals."""
    from melanoma.compare import compare_runs, summary

    found = compare_runs(first, second)
    print(json_format.dumps(found, indent=2) if json else summary(found))


@app.command
def submit(
    runs: Annotated[list[Path], Parameter(help="A run's folder; several are blended.")],
    /,
    *,
    out: Blended = Path("submission.csv"),
    json: Json = False,
) -> None:
    """Check and write the competition's submission.csv; of several runs, the blend that did best out of fold."""
    if len(runs) > 1:
        from melanoma.compare import blend_runs, blend_summary

        found = blend_runs(runs, out)
        print(json_format.dumps(found, indent=2) if json else blend_summary(found))
        return
    from melanoma import pipeline

    opened = _open(runs[0])
    with opened.held():
        pipeline.submit(opened, pipeline.reopen(opened, opened.settings()))
    if opened.submission.exists():
        print(opened.submission)


@app.command
def predict(
    pictures: Annotated[
        list[str],
        Parameter(help="Pictures, folders, globs, zips, s3://...; or a CSV of pictures, perhaps age, sex, site."),
    ],
    /,
    *,
    model: Model = None,
    age: Age = None,
    sex: Sex = None,
    site: Site = None,
    prevalence: Prevalence = None,
    views: Views = None,
    precision: Annotated[
        Literal["float32", "auto", "bfloat16", "int8"],
        Parameter(help="float32 answers alike, within 1e-5, on every machine; auto takes what is fastest here."),
    ] = "float32",
    out: Out = None,
    on: On = None,
    address: Address = None,
    json: Annotated[bool, Parameter(negative=(), help="Print a line of JSON for each picture.")] = False,
) -> None:
    """Tell melanoma from other lesions on photographs: probability, words, refer, or not assessable.

    A picture that cannot be read is reported and the rest is answered; the exit code is 1 then.
    """
    from melanoma.answer import answer_pictures, print_answers
    from melanoma.cluster import spreading
    from melanoma.inference.words import Details

    details = Details(age, sex, site, prevalence)
    with spreading(on, address) as spread:
        predictor, answers = answer_pictures(
            pictures, model, details, views=views, precision=precision, out=out, counting=_counting, spread=spread
        )
        with closing(answers):  # while Ray is there
            failed = print_answers(
                predictor, answers, prevalence=prevalence, as_json=json, out=out, parts=spread is not None
            )
    if failed:
        raise DataError(f"{failed:,} of the pictures could not be read; see above")


@app.command
def explain(
    picture: Annotated[str, Parameter(help="One picture.")],
    /,
    *,
    model: Model = None,
    out: Drawn = Path("explanation.png"),
    age: Age = None,
    sex: Sex = None,
    site: Site = None,
    prevalence: Prevalence = None,
    views: Views = None,
) -> None:
    """Draw where the network looked: the picture, what the network saw of it, and the map over that."""
    from melanoma.answer import explain_picture, limits_of
    from melanoma.inference.words import Details

    predictor, explained = explain_picture(picture, model, out, Details(age, sex, site, prevalence), views)
    print(explained.answer.words)
    for remark in explained.answer.remarks:
        print(f"note: {remark}")
    print(out)
    print("\n".join([printable(predictor.worth), limits_of(predictor), RESEARCH_ONLY]))


@app.command
def serve(
    *,
    model: Model = None,
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8000,
    views: Views = None,
    queue: Annotated[int, Parameter(help="Pictures that may wait; more get 503 and Retry-After.")] = 64,
    largest: Annotated[int, Parameter(help="Most MiB of a request.")] = 64,
) -> None:
    """Answer over HTTP, with a page for people at / and an API for programs, which /openapi.json describes."""
    from melanoma.web.app import serve as listen

    listen(model, host=host, port=port, views=views, queue=queue, largest_bytes=largest * 2**20)


@app.command
def download(
    source: Annotated[
        Literal["kaggle", "isic"], Parameter(help="kaggle: the SIIM-ISIC 2020 competition. isic: the ISIC Archive.")
    ],
    folder: Annotated[Path, Parameter(converter=here, help="Where the dataset goes.")],
    /,
    *,
    collection: Annotated[int, Parameter(help="ISIC Archive: the collection; 70 is the 2020 challenge.")] = 70,
    limit: Annotated[int, Parameter(help="ISIC Archive: images to fetch; 0 for all.")] = 0,
    names: Annotated[Path | None, Parameter(help="ISIC Archive: instead, a CSV whose image_name lists images.")] = None,
) -> None:
    """Fetch a dataset with its owner's own tool, after showing its licence; an interrupted download goes on."""
    from melanoma.data.download import download as fetch

    print(fetch(source, folder, collection, limit, names))


@app.command
def doctor(*, json: Json = False) -> None:
    """Tell versions, backend, devices and extras: to paste into a bug report."""
    from melanoma.doctor import examine

    facts = examine()
    if json:
        print(json_format.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")


def _counting(what: str, unit: str) -> Any:
    from melanoma.training.progress import counting  # not for a single picture

    return counting(what, unit)


def _leads() -> bool:
    """Tell whether this process speaks for all that train together."""
    from melanoma.training.team import team

    return team.leads


def _started(begun: Any) -> Any:
    if _leads():
        print(f"run folder: {begun.folder}", file=sys.stderr)
    _resumable.append(begun.folder)
    return begun


def _open(folder: Path) -> Any:
    from melanoma.runs import open_run

    opened = open_run(folder)
    _resumable.append(folder)
    return opened


def _judged_file(
    path: Path, data: Path | None, sizes: Path | None, out: Path | None, overrides: list[str] | tuple[()]
) -> Any:
    from melanoma.config import load_settings
    from melanoma.judge import judge_file

    if data is None:
        raise UsageError(f"{path} is a file: give --data, the dataset folder whose train.csv holds its images")
    given = [str(path), "--data", str(data), *(["--sizes", str(sizes)] if sizes else [])]
    command = shlex.join(["melanoma", "evaluate", *given, *(f"--set={one}" for one in overrides)])
    folder = out or path.with_name(f"{path.stem}-report")
    return judge_file(path, data, folder, load_settings("cpu", overrides), sizes=sizes, command=command)


def _print_result(opened: Any, as_json: bool) -> None:
    from melanoma.report.page import summary

    if not _leads():
        return
    figures = read_json(opened.metrics)
    if as_json:
        print(json_format.dumps(figures, indent=2))
        return
    print(summary(figures))
    print(f"report: {opened.report}")
    if opened.submission.exists():
        print(f"submission: {opened.submission}")
    print(RESEARCH_ONLY)


def main() -> None:
    """Run the command line and exit with the code that tells how it went."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(ended(app, _resumable))
