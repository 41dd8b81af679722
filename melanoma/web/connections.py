"""Connections that keep nobody out: who sends nothing, or byte by byte, or never reads its answer, is let go."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from melanoma.web.around import HEADERS, problem

MOST = 512  # at once; one more, and the one whose client is waited for longest makes room
WAITING_SECONDS = 15.0  # for a whole request header, the first or the next
READING_SECONDS = 60.0  # for an answer to be read
LOOK_SECONDS = 5.0  # between two looks at a connection


class Connection(H11Protocol):
    """A client's connection, with a limit to every wait; that for a request's body is kept where it is read.

    since: when it began to wait for a request, for its body, or for its answer to be read, in seconds of the loop's
    clock.
    """

    since: float
    _reads: RequestResponseCycle | None = None  # whose answer is being read
    _timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it; where there are too many, close the one whose client is waited for longest."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        open_ones = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(open_ones) > MOST:
            min((one for one in open_ones if one.clients_turn), key=lambda one: one.since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch it no longer."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait for a request's body once its header is there."""
        waited = self.waits
        super().data_received(data)
        if waited and not self.waits:
            self.since = self.loop.time()

    def on_response_complete(self) -> None:
        """Wait for the next request; who sent it before the answer was there keeps others waiting, and is let go."""
        self.since = self.loop.time()
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as any other problem, where nothing was answered yet, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # whatever it would still answer
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problem(400, "this is no HTTP request")
            own = [(name.encode(), value.encode()) for name, value in {**HEADERS, "connection": "close"}.items()]
            head = h11.Response(status_code=400, headers=answer.raw_headers + own, reason=b"Bad Request")
            events = head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    @property
    def waits(self) -> bool:
        """Whether no request of it is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def clients_turn(self) -> bool:
        """Whether it is the client that has to go on: with a request, with its body, or by reading the answer."""
        return self.waits or self.cycle.more_body or self.cycle.response_started

    def _look(self) -> None:
        now = self.loop.time()
        if not self.waits and self.cycle.response_started and self._reads is not self.cycle:
            self._reads, self.since = self.cycle, now
        too_long = WAITING_SECONDS if self.waits else READING_SECONDS
        if (self.waits or self._reads is self.cycle) and now >= self.since + too_long:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
