"""What surrounds every request: headers that keep the page to itself, who may ask, problems as JSON, counts."""

import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Set
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from melanoma.errors import MelanomaError
from melanoma.inference.words import Answer
from melanoma.web.forms import ProblemError
from melanoma.web.schema import TITLES

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Metrics:
    """What a monitor may know: counts and times, and nothing about anybody."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("melanoma_requests", "Requests", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("melanoma_request_seconds", "Time to answer", ["path"], registry=self.registry)
        self.pictures = Counter("melanoma_pictures", "Pictures by answer", ["status"], registry=self.registry)
        Gauge("melanoma_waiting", "Pictures that wait", registry=self.registry).set_function(waiting)

    def count(self, answers: Iterable[Answer]) -> None:
        """Count pictures by what was said of them."""
        for one in answers:
            self.pictures.labels(one.status).inc()


def add_problems(app: FastAPI) -> None:
    """Answer whatever goes wrong as application/problem+json (RFC 9457)."""

    async def own(_: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem(error.status, error.detail, error.retry_seconds)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})  # which methods are allowed
        return response

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(422, f"{first['loc'][-1]}: {first['msg']}")

    async def missing(_: Request, error: Exception) -> Response:
        return problem(422, str(error))

    app.add_exception_handler(ProblemError, own)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(MelanomaError, missing)


def problem(status: int, detail: str, retry_seconds: int | None = None) -> Response:
    """Say what went wrong, for a person and for a program."""
    content = {"title": TITLES.get(status, "Refused"), "status": status, "detail": detail}
    headers = {} if retry_seconds is None else {"retry-after": str(retry_seconds)}
    return JSONResponse(content, status, headers, media_type="application/problem+json")


class Outside:
    """Adds the headers that keep the page to itself, refuses other sites' pages, counts requests, reports bugs.

    names: those that the service answers to, without a port; None for any.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, names: Set[str] | None) -> None:
        self.app, self.metrics, self.names = app, metrics, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, headless = time.perf_counter(), 0, scope["method"] == "HEAD"
        if headless:
            scope = {**scope, "method": "GET"}

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            elif headless:
                message["body"] = b""
            await send(message)

        try:
            await (self._refusal(scope) or self.app)(scope, receive, sent)
        except asyncio.CancelledError:  # the service stops, and waits for this client no longer
            if not status:
                await problem(503, "the service is stopping")(scope, receive, sent)
        except Exception as error:
            # its text may hold something of the request: what is logged is where, and of what kind
            place = traceback.extract_tb(error.__traceback__)[-1]
            print(f"bug: {type(error).__name__} in {place.filename}:{place.lineno}", file=sys.stderr, flush=True)
            if status:
                raise ConnectionAbortedError("the answer broke off") from None
            said = f"the service failed ({type(error).__name__}); this is a bug"
            await problem(500, said)(scope, receive, sent)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status or 500)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> Response | None:
        """Refuse what a browser sends for another site's page, which could read answers or keep the service busy."""
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host = headers.get(b"host")
        # a page's own name that was made to point here (DNS rebinding); programs without a name are no browser
        if self.names is not None and host is not None and _name_in(host) not in self.names:
            known = ", ".join(sorted(self.names))
            return problem(421, f"this service answers to {known} alone; a proxy before it has to ask for one of these")
        if scope["method"] == "POST" and _from_elsewhere(headers, host):
            return problem(403, "another site's page may not send pictures")
        return None


def _from_elsewhere(headers: dict[bytes, str], host: str | None) -> bool:
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site not in ("same-origin", "none")
    # browsers say no more than this to a service without TLS on another machine
    return origin is not None and origin.partition("://")[2] != host


def _name_in(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
