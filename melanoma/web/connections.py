"""Connections that keep nobody out: who sends nothing, or byte by byte, or never reads its answer, is let go."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST = 512  # at once; one more, and the one that has waited longest for a request makes room
WAITING_SECONDS = 15.0  # for a whole request header, the first or the next
READING_SECONDS = 60.0  # for an answer to be read
LOOK_SECONDS = 5.0  # between two looks at a connection


class Connection(H11Protocol):
    """A client's connection, with a limit to every wait; that for a request's body is kept where it is read.

    since: when it began to wait for a request, or for its answer to be read, in seconds of the loop's clock.
    """

    since: float
    _reads: RequestResponseCycle | None = None  # whose answer is being read
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it; where there are too many, close the one that has waited longest."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        open_ones = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(open_ones) > MOST:
            min((one for one in open_ones if one.waits), key=lambda one: one.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch it no longer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether no request of it is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        if not self.waits and self.cycle.response_started and self._reads is not self.cycle:
            self._reads, self.since = self.cycle, now
        too_long = WAITING_SECONDS if self.waits else READING_SECONDS
        if (self.waits or self._reads is self.cycle) and now >= self.since + too_long:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
