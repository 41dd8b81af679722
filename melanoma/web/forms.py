"""Requests with pictures: read into memory under a limit, or refused in a sentence."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from melanoma.errors import UsageError, printable
from melanoma.inference.words import Details
from melanoma.web.schema import LONGEST_SITE

MOST_FIELDS, LARGEST_FIELD = 8, 1024  # bytes
BODY_SECONDS = 60.0  # in which a request must have arrived
RETRY_SECONDS = 2
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of odd bytes; their sender is told


class ProblemError(Exception):
    """What went wrong with a request, for its sender."""

    def __init__(self, status: int, detail: str, retry_seconds: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_seconds = status, detail, retry_seconds


class Memory:
    """The bytes of requests that are held at once, and their limit: who sends most makes room for who sends less."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._shares: set[Share] = set()

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return sum(share.held for share in self._shares)

    @contextmanager
    def shared(self) -> Iterator["Share"]:
        """Give a request its share, which it takes as it arrives and gives back at the end."""
        share = Share(self)
        self._shares.add(share)
        try:
            yield share
        finally:
            self._shares.discard(share)

    def make_room(self, count: int, wanted_by: "Share") -> None:
        """End those that hold most of what is still arriving; raises ProblemError where that is who wants more."""
        while self.held + count > self.most:
            arriving = [share for share in self._shares if share.arriving is not None]
            largest = max(arriving, key=lambda share: share.held, default=wanted_by)
            if largest is wanted_by or largest.held <= wanted_by.held + count:
                raise _too_much()
            largest.end()


class Share:
    """What one request holds. arriving: the time limit of its body while that is read."""

    def __init__(self, memory: Memory) -> None:
        self.held, self.ended = 0, False
        self.arriving: asyncio.Timeout | None = None
        self._memory = memory

    def take(self, count: int) -> None:
        """Hold more bytes; raises ProblemError where there is no room for them."""
        if self.ended:
            raise _too_much()
        self._memory.make_room(count, self)
        self.held += count

    def end(self) -> None:
        """Let its time be over now."""
        self.held, self.ended = 0, True
        if self.arriving is not None:
            self.arriving.reschedule(asyncio.get_running_loop().time())
            self.arriving = None

    @asynccontextmanager
    async def arrival(self, seconds: float) -> AsyncGenerator[None]:
        """Read its body within some seconds; raises ProblemError where it is too slow, or ended for another."""
        try:
            async with asyncio.timeout(seconds) as self.arriving:
                yield
        except TimeoutError:
            if self.ended:
                raise _too_much() from None
            raise ProblemError(408, f"the request took over {seconds:.0f} s to arrive") from None
        finally:
            self.arriving = None


def _too_much() -> ProblemError:
    return ProblemError(503, "too much is being sent at once; try again soon", RETRY_SECONDS)


async def read_pictures(
    request: Request, field: str, most: int, largest: int, share: Share
) -> tuple[list[tuple[str, bytes]], Details]:
    """Read the pictures of a multipart request, name and bytes, and what is known of the patient.

    They are read into memory, at most `largest` bytes, counted as they come and taken from `share`. Raises ProblemError
    where the body is of another kind, too large, too slow, or without pictures in `field`, 1 to `most` of them.
    """
    form = await _form(request, field, most, largest, share)
    try:
        pictures = [(plain_name(one.filename), await one.read()) for one in _files_of(form, field, most)]
        told = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        if len(told) > len(dict(told)):
            raise ProblemError(422, "a field of the patient may be given once")
        return pictures, details_of(dict(told))
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Starlette's, which also knows whether the closing boundary has come."""

    closed = False

    def on_end(self) -> None:
        """Hear that it came."""
        self.closed = True


async def _form(request: Request, field: str, most: int, largest: int, share: Share) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError(415, f"send multipart/form-data with the pictures in the field {field}")
    too_large = ProblemError(413, f"the request is over {largest / 2**20:.0f} MiB; send smaller or fewer pictures")
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > largest:
        raise too_large

    async def counted() -> AsyncGenerator[bytes, None]:
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
            if count > largest:
                raise too_large
            share.take(len(chunk))
            yield chunk
        if count and not parser.closed:  # it would leave out what it has of the last part
            raise ProblemError(400, "the body breaks off before its closing boundary")

    parser = _Parser(request.headers, counted(), max_files=most, max_fields=MOST_FIELDS, max_part_size=LARGEST_FIELD)
    parser.spool_max_size = largest + 1  # never to a disk
    try:
        async with share.arrival(BODY_SECONDS):
            return await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"the body is no multipart/form-data as expected: {error.message}") from error
    except ClientDisconnect:  # nobody is there to be told
        raise ProblemError(400, "the request broke off") from None
    except (KeyError, ValueError, UnicodeDecodeError) as error:  # a boundary that is missing or no text
        raise ProblemError(400, "the body is no multipart/form-data as its header says") from error


def _files_of(form: FormData, field: str, most: int) -> list[UploadFile]:
    files = [one for one in form.getlist(field) if isinstance(one, UploadFile)]
    other = sorted({name for name, value in form.multi_items() if isinstance(value, UploadFile)} - {field})
    if other or not files:
        raise ProblemError(422, f"pictures go in the field {field}, 1 to {most} of them, as files")
    return files


def details_of(fields: dict[str, str]) -> Details:
    """Read what is known of the patient; raises ProblemError for what cannot be."""
    unknown = sorted(set(fields) - {"age_years", "sex", "site", "prevalence"})
    if unknown:
        raise ProblemError(422, f"there is no field {unknown[0]!r:.40}; known: age_years, sex, site, prevalence")
    numbers: dict[str, float | None] = {}
    for name in ("age_years", "prevalence"):
        text = fields.get(name, "").strip()
        try:
            numbers[name] = float(text) if text else None
        except ValueError:
            raise ProblemError(422, f"{name} is a number, not {text!r:.40}") from None
    words = {name: fields.get(name, "").strip().lower() or None for name in ("sex", "site")}
    if len(fields.get("site", "")) > LONGEST_SITE:
        raise ProblemError(422, f"a site has at most {LONGEST_SITE} characters")
    try:
        return Details(numbers["age_years"], words["sex"], words["site"], numbers["prevalence"])
    except UsageError as error:
        raise ProblemError(422, str(error)) from error


def plain_name(name: str | None) -> str:
    """Keep the last part of a file's name as one short line: it is only ever shown."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return printable(last)[:120] or "picture"
