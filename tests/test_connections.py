"""Connections that send nothing, or too slowly, or read nothing: they are let go, and the others are answered."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import uvicorn

from melanoma.web import connections
from melanoma.web.connections import Connection

LARGE = 32 * 2**20  # bytes: more than sockets buffer


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, with much where much is asked for."""
    if scope["type"] != "http":
        return
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        await asyncio.sleep(0)
    body = bytes(LARGE if scope["path"] == "/large" else 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[uvicorn.Server]:
    monkeypatch.setattr(connections, "MOST", 20)
    monkeypatch.setattr(connections, "WAITING_SECONDS", 0.5)
    monkeypatch.setattr(connections, "READING_SECONDS", 0.5)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)
    running = uvicorn.Server(uvicorn.Config(app, port=0, http=Connection, ws="none", lifespan="off", log_level="error"))
    thread = Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def connected(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=10)


def answer(client: socket.socket, path: str = "/") -> bytes:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    received = client.recv(4096)
    while b"\r\n\r\n\0" not in received:
        received += client.recv(4096)
    return received


def seconds_until_closed(client: socket.socket) -> float:
    """Wait for the end of a connection; what still comes is thrown away."""
    started = time.monotonic()
    try:
        while client.recv(2**16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - started


def test_who_sends_nothing_is_let_go(server: uvicorn.Server) -> None:
    with connected(server) as client:
        assert 0.3 < seconds_until_closed(client) < 3


def test_a_header_that_comes_byte_by_byte_is_not_waited_for(server: uvicorn.Server) -> None:
    with connected(server) as client:
        assert answer(client).startswith(b"HTTP/1.1 200")  # nor after a good request
        started = time.monotonic()
        with pytest.raises(OSError, match=r"reset|pipe"):
            while time.monotonic() < started + 10:
                client.sendall(b"G")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - started < 3


def test_a_connection_that_is_used_stays(server: uvicorn.Server) -> None:
    with connected(server) as client:
        for _ in range(6):
            assert answer(client).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)


def test_who_reads_nothing_of_an_answer_is_let_go(server: uvicorn.Server) -> None:
    with connected(server) as client:
        assert answer(client, "/large").startswith(b"HTTP/1.1 200")
        time.sleep(2)
        assert not server.server_state.connections
        assert seconds_until_closed(client) < 3


def test_a_large_answer_that_is_read_comes_whole(server: uvicorn.Server) -> None:
    with connected(server) as client:
        found = len(answer(client, "/large"))
        while found < LARGE:
            found += len(client.recv(2**20))
    assert found > LARGE


def test_a_flood_of_connections_keeps_nobody_out(server: uvicorn.Server) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connected(server))
        started = time.monotonic()
        client = stack.enter_context(connected(server))
        assert answer(client).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 3
        assert len(server.server_state.connections) <= 20


@pytest.mark.parametrize(
    "begun",
    [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbegun", b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["bodies that do not come", "answers that are not read"],
)
def test_a_flood_of_requests_whose_clients_do_not_go_on_keeps_nobody_out(
    server: uvicorn.Server, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READING_SECONDS", 60)
    with ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connected(server)).sendall(begun)
            time.sleep(0.02)
        client = stack.enter_context(connected(server))
        started = time.monotonic()
        assert answer(client).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started < 4
        assert len(server.server_state.connections) <= 20


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**17],
    ids=["TLS", "no host", "a long header"],
)
def test_what_is_no_http_is_a_problem_as_any_other_and_not_logged(
    server: uvicorn.Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server) as client:
        client.sendall(sent)
        received = client.recv(4096)
        seconds_until_closed(client)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json\r\n" in received and b"x-content-type-options: nosniff" in received
    assert b'"detail":"this is no HTTP request"' in received
    assert not caplog.records


def test_a_body_that_breaks_the_rules_after_its_answer_closes_the_connection_and_is_no_bug(
    server: uvicorn.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"no chunk\r\n")
        assert seconds_until_closed(client) < 0.4
    assert not caplog.records


def test_a_body_that_breaks_the_rules_is_answered_once(
    server: uvicorn.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(server) as client:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head + b"1\r\nx\r\nno chunk\r\n")
        received = client.recv(4096)
        assert received.startswith(b"HTTP/1.1 400") and received.count(b"HTTP/1.1") == 1
        seconds_until_closed(client)
    assert not caplog.records


def test_who_asks_again_before_the_answer_is_there_is_let_go(server: uvicorn.Server) -> None:
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        received = b""
        with suppress(ConnectionResetError):
            while more := client.recv(2**16):
                received += more
    assert received.count(b"HTTP/1.1 200") <= 1
