"""The service: pictures in by HTTP, answers out as JSON; and the page that uses it.

No file is kept, nothing about a patient is logged, and no address outside is asked for anything.
"""

import asyncio
import base64
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from melanoma import RESEARCH_ONLY
from melanoma.errors import MelanomaError, MissingExtraError, UsageError, printable
from melanoma.evaluation.metrics import predictive_values
from melanoma.images.decode import decode
from melanoma.images.filters import shrunk
from melanoma.images.photograph import UInt8Array
from melanoma.inference.explain import NOTE, Explanation, middle_of, png, sheet
from melanoma.inference.predict import Predictor
from melanoma.inference.words import ERROR, Answer, Details

try:
    import uvicorn
    from fastapi import FastAPI, Query, Request
    from fastapi.responses import PlainTextResponse, Response
    from prometheus_client import generate_latest

    from melanoma.web.around import Metrics, Outside, add_problems
    from melanoma.web.batching import Batcher, OverloadedError
    from melanoma.web.connections import Connection
    from melanoma.web.forms import RETRY_SECONDS, Memory, ProblemError, details_of, read_pictures
    from melanoma.web.schema import EXPLAIN_BODY, PREDICT_BODY, Explained, Model, Predicted, problems
except ImportError as missing:
    raise MissingExtraError(missing.name or "fastapi", "serve") from missing

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MOST_PICTURES = 32  # of a request
DRAIN_SECONDS, LAST_SECONDS = 25, 3  # for requests under way; then for what is computed though nobody waits for it
BACKLOG = 128  # connections that are taken at once, before any is read from, and that the system holds until then
SHOWN_PX = 640  # longer side of a picture that is sent back
IN_FLIGHT = 4  # times the largest request: all that is held in memory at once
PROBLEMS = problems(400, 403, 408, 413, 415, 421, 422, 503)


@dataclass(frozen=True)
class Service:
    """What lives as long as the service: what answers, and its limits."""

    batcher: Batcher
    largest_bytes: int
    memory: Memory
    drawing: asyncio.Semaphore

    @property
    def predictor(self) -> Predictor:
        """The model that answers."""
        return self.batcher.predictor

    @asynccontextmanager
    async def answered(
        self, request: Request, field: str, most: int, *, maps: bool
    ) -> AsyncIterator[tuple[list[Answer], list[bytes]]]:
        """Answer for the pictures of a request, and hold their bytes; raises ProblemError where there is no answer."""
        with self.memory.shared() as share:
            pictures, details = await read_pictures(request, field, most, self.largest_bytes, share)
            try:
                futures = self.batcher.submit(pictures, details, maps=maps)
            except OverloadedError:
                raise ProblemError(503, "too many pictures wait; try again soon", RETRY_SECONDS) from None
            answers = await _unless_left(request, futures)
            if all(one.status == ERROR for one in answers):
                raise ProblemError(422, "; ".join(dict.fromkeys(str(one.error) for one in answers)))
            yield answers, [content for _, content in pictures]


async def _unless_left(request: Request, futures: Sequence["Future[Answer]"]) -> list[Answer]:
    """Wait for answers; where the client leaves first, take those back that nobody works on yet."""

    async def answered() -> list[Answer]:
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.create_task(answered()), asyncio.create_task(left())
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ProblemError(400, "the request broke off")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


def create_app(
    predictor: Predictor, *, queue: int = 64, largest_bytes: int = 64 * 2**20, names: Set[str] | None = None
) -> FastAPI:
    """Make the service of one bundle, as an ASGI application.

    queue: pictures that may wait, more get 503. largest_bytes: of a request's body. names: those that a request's Host
    may have, any by default.
    """
    batcher = Batcher(predictor, queue)
    service = Service(batcher, largest_bytes, Memory(IN_FLIGHT * largest_bytes), asyncio.Semaphore(predictor.threads))
    metrics = Metrics(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(batcher.close, LAST_SECONDS)

    app = FastAPI(
        title="melanoma",
        version=version("melanoma"),
        description=f"Tells melanoma from other lesions on dermoscopic photographs. {RESEARCH_ONLY}",
        lifespan=lifespan,
        docs_url=None,  # these pages would be fetched from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to wherever a request's Host says
    )
    app.add_middleware(Outside, metrics=metrics, names=names)
    add_problems(app)
    _add_page(app)
    _add_facts(app, service, metrics)
    _add_answers(app, service, metrics)
    return app


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in FILES.items():
        app.get(path, include_in_schema=False)(_file((PAGE / name).read_bytes(), kind))


def _file(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


def _add_facts(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/health", response_model=dict[str, str], summary="Is the process alive?", responses=problems(421))
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", response_model=dict[str, str], summary="Can it answer?", responses=problems(421, 503))
    async def ready() -> dict[str, str]:
        if service.batcher.closed:
            raise ProblemError(503, "the service is stopping", RETRY_SECONDS)
        return {"status": "ready"}

    @app.get(
        "/model", response_model=Model, summary="Which model answers, and what it reached",
        responses=problems(421, 422),
    )  # fmt: skip
    async def model(prevalence: Annotated[float | None, Query(gt=0, lt=1)] = None) -> dict[str, Any]:
        details = details_of({"prevalence": "" if prevalence is None else str(prevalence)})
        limits = {"max_images": MOST_PICTURES, "max_bytes": service.largest_bytes}
        return {**model_facts(service.predictor, details), **limits}

    @app.get(
        "/metrics", response_class=PlainTextResponse, summary="Counts and times, for Prometheus",
        responses=problems(421),
    )  # fmt: skip
    async def counts() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_answers(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.post(
        "/predict", response_model=Predicted, summary="Answer for one picture or several",
        responses=PROBLEMS, openapi_extra=PREDICT_BODY,
    )  # fmt: skip
    async def predict(request: Request) -> dict[str, Any]:
        async with service.answered(request, "images", MOST_PICTURES, maps=False) as (answers, _):
            metrics.count(answers)
        return {**service.predictor.source, "answers": [one.to_json() for one in answers]}

    @app.post(
        "/explain", response_model=Explained, summary="Answer for one picture, with where the network looked",
        responses={**PROBLEMS, 200: {"content": {"image/png": {}}}}, openapi_extra=EXPLAIN_BODY,
    )  # fmt: skip
    async def explain(request: Request) -> Any:
        as_picture = "image/png" in request.headers.get("accept", "")
        async with service.answered(request, "image", 1, maps=True) as ((answer,), (content,)):
            metrics.count([answer])
            async with service.drawing:
                return await asyncio.to_thread(_drawn, service.predictor, answer, content, as_picture)


def serve(model: Path | str | None, *, host: str, port: int, views: int | None, queue: int, largest_bytes: int) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C, then finish what is under way.

    queue, largest_bytes: as for `create_app`. Raises MelanomaError as Predictor does, or where the port is taken.
    """
    if queue < 1 or largest_bytes < 1 or not 0 <= port <= 65_535:
        raise UsageError("--queue and --largest are 1 or more, and --port is from 0 to 65535")
    predictor = Predictor(model, views=views)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise MelanomaError(f"{host}:{port} cannot be listened on: give another --host or --port") from error
    address, taken = listening.getsockname()[:2]
    # who is on this machine knows it by these names; by which others would, nobody can tell
    names = {"localhost", "127.0.0.1", "::1", address, host.lower()} if ip_address(address).is_loopback else None
    app = create_app(predictor, queue=queue, largest_bytes=largest_bytes, names=names)
    settings = uvicorn.Config(
        app, http=Connection, ws="none", log_level="error", access_log=False, server_header=False, backlog=BACKLOG,
        timeout_keep_alive=15, timeout_graceful_shutdown=DRAIN_SECONDS,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    told = f"serving on http://{shown}:{taken}; Ctrl-C ends it; {printable(predictor.worth)}"
    print(told, file=sys.stderr, flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run([listening])
    print("stopped", file=sys.stderr)


def model_facts(predictor: Predictor, details: Details) -> dict[str, Any]:
    """Say what model answers: names, figures with intervals, where its operating points lie for a prevalence."""
    bundle, answers, figures = predictor.bundle, predictor.answers, predictor.bundle.description["figures"]
    between = None
    if answers["conformal"] is not None:
        edges = sorted((answers["conformal"].melanoma_from, answers["conformal"].benign_upto))
        between = [predictor.calibrated(min(max(edge, 0.0), 1.0), details) for edge in edges]
    return {
        **predictor.source,
        "name": bundle.name,
        "version": version("melanoma"),
        "sha256": bundle.sha256,
        "sizes_px": sorted({run["images"].size_px for run in bundle.runs}),
        "networks": len(bundle.networks),
        "views": sorted({run["views"] for run in bundle.runs}),
        "engine": str(predictor.choice),
        "metadata": predictor.uses_metadata,
        "sexes": ["female", "male"],
        "sites": [site for site in bundle.encoders[0].sites if site != "unknown"],
        "prevalence": details.prevalence or answers["prevalence"],
        "prevalence_of_the_data": answers["prevalence_of_the_data"],
        "auc": figures["auc"],
        "control_auc": figures["strongest_control"] and figures["strongest_control"]["auc"],
        "control": figures["strongest_control"] and figures["strongest_control"]["name"],
        "images": figures["images"],
        "melanomas": figures["melanomas"],
        "operating_point": answers["operating_point"],
        "operating_points": [
            {**point, "probability": predictor.calibrated(point["threshold"], details), **_worth(point, details)}
            for point in answers["operating_points"]
        ],
        "refer_between": between,
        "gate": bundle.description["gate"],
        "limits": figures["limits"],
        "licence": bundle.description["data"]["licence"] or "not stated",
    }


def _worth(point: dict[str, Any], details: Details) -> dict[str, Any]:
    """Say what an operating point's answers are worth for the prevalence that was asked for."""
    if details.prevalence is None:
        return {}
    found, passed = (point[name]["value"] for name in ("sensitivity", "specificity"))
    return {"prevalence": details.prevalence, **predictive_values(found, passed, details.prevalence)}


def _drawn(predictor: Predictor, answer: Answer, content: bytes, as_picture: bool) -> Any:
    """Draw an answer with its map: a PNG, or the parts of it as JSON."""
    original, image = decode(content, SHOWN_PX, answer.name), predictor.read(answer.name, content).images[0]
    explanation = Explanation(answer, original, image, middle_of(answer, predictor.answers["threshold"]))
    centred = predictor.bundle.runs[0]["images"].crop == "centre"
    if as_picture:
        drawn = sheet(explanation, answer.name, f"{predictor.worth}. {RESEARCH_ONLY}")
        return Response(drawn, media_type="image/png")
    shares = answer.activation_map
    return {
        **predictor.source,
        "answer": answer.to_json(),
        "picture_png": base64.b64encode(png(_framed(original, centred=centred))).decode(),
        "image_png": base64.b64encode(png(image)).decode(),
        "map_png": base64.b64encode(png(explanation.colours)).decode(),
        "map": [] if shares is None else shares.tolist(),
        "note": NOTE,
    }


def _framed(original: UInt8Array, *, centred: bool) -> UInt8Array:
    """Show a picture small, and cut to what the network saw of it, so that the map lies over it."""
    height, width = original.shape[:2]
    if centred:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        original, height, width = original[top : top + side, left : left + side], side, side
    scale = min(1.0, SHOWN_PX / max(height, width))
    return shrunk(original, max(1, round(width * scale)), max(1, round(height * scale)))
