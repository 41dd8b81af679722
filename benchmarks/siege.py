"""The service under attack: one healthy client asks twice a second while others do what they can to keep it busy.

python benchmarks/siege.py --model RUN --pictures FOLDER [--seconds 10]

It starts `melanoma serve` on this machine and attacks it over loopback alone. The attackers are threads of a process of
their own; they take their share of the cores, so that what is reported is a bound from below. None of them waits where
it is told to come again.
"""

import argparse
import io
import json
import multiprocessing
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from serve import BOUNDARY, HEADERS, body, resident_mib, started
from turns import machine

from melanoma.inference.inputs import find_pictures

MOST_SECONDS = 10.0  # that the healthy client waits for an answer
EVERY_SECONDS = 0.5
HEAD = (
    f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
)


class Siege:
    """Where the service is, how long an attack lasts, a good picture's request, and what attackers are told."""

    def __init__(self, port: int, seconds: float, picture: bytes) -> None:
        self.port, self.until, self.picture = port, time.monotonic() + seconds, picture
        self.told: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.until

    def connected(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def count(self, answer: bytes) -> None:
        """Count an answer by its status."""
        with self.lock:
            self.told[answer[9:12].decode("latin-1") or "closed"] += 1

    def send(self, request: bytes | Iterator[bytes]) -> None:
        """Send a request, as much of it as is taken, and read the beginning of its answer."""
        with self.connected() as client:
            with suppress(OSError):
                for part in [request] if isinstance(request, bytes) else request:
                    client.sendall(part)
            with suppress(OSError):
                self.count(client.recv(4096))


# ---- attacks ---------------------------------------------------------------------------------------------------------


def ask(siege: Siege) -> None:
    """Ask for an answer, again and again."""
    while siege.goes_on:
        siege.send(whole(siege.picture))


def ask_and_leave(siege: Siege) -> None:
    """Ask for an answer and do not wait for it."""
    while siege.goes_on:
        with siege.connected() as client:
            client.sendall(whole(siege.picture))
            time.sleep(0.02)


def held(siege: Siege, begun: bytes, more: bytes) -> None:
    """Begin many requests, and go on with each by a byte a second; open again what is closed."""
    clients = []
    while siege.goes_on:
        while len(clients) < 150 and siege.goes_on:
            with suppress(OSError):
                clients.append(siege.connected())
                clients[-1].sendall(begun)
        for client in list(clients):
            try:
                client.sendall(more)
            except OSError:
                clients.remove(client)
        time.sleep(1)


def slow_headers(siege: Siege) -> None:
    """Send headers that never end."""
    held(siege, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x")


def slow_bodies(siege: Siege) -> None:
    """Send bodies that never end."""
    held(siege, HEAD + b"Content-Length: 9999999\r\n\r\n--", b"x")


def large_bodies_that_stop(siege: Siege) -> None:
    """Send most of a large body, and no more."""
    while siege.goes_on:
        with siege.connected() as client, suppress(OSError):
            client.sendall(HEAD + b"Content-Length: 40000000\r\n\r\n" + start_of_a_part() + bytes(30_000_000))
            client.settimeout(max(0.1, siege.until - time.monotonic()))
            siege.count(client.recv(4096))


def never_read(siege: Siege) -> None:
    """Ask for much in one go, before any answer is there, and read nothing."""
    held(siege, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200, b"")


def hostile_bodies(siege: Siege) -> None:
    """Send what is no good request, of every kind."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    parts = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n1\r\n' % (BOUNDARY.encode(), n) for n in range(2000)
    )
    requests: list[Callable[[], bytes | Iterator[bytes]]] = [
        lambda: whole(parts),
        lambda: whole(body("large.jpg", b"\xff\xd8" + bytes(30_000_000))),
        lambda: whole(b"--another\r\n\r\n"),
        lambda: HEAD.replace(b"multipart/form-data", b"application/json") + b"Content-Length: 2\r\n\r\n{}",
        lambda: whole(siege.picture.replace(b'name="images"', b'name="wrong"')),
        lambda: whole(body("../../x", b"")),
        lambda: iter([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", start_of_a_chunk(), *[chunk] * 1600]),
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ]
    while siege.goes_on:
        siege.send(random.choice(requests)())


def pixel_bombs(siege: Siege) -> None:
    """Send small files that are large pictures: some said to be larger than is taken, some as large as is taken."""
    taken = io.BytesIO()
    Image.new("L", (8000, 8000), 200).save(taken, "PNG")
    bombs = [body("said.png", said_png(65_535)), body("taken.png", taken.getvalue())]
    while siege.goes_on:
        siege.send(whole(random.choice(bombs)))


def nothing(siege: Siege) -> None:
    """Attack nobody."""


ATTACKS: dict[str, tuple[int, Callable[[Siege], None]]] = {
    "none": (1, nothing),
    "200 ask at once": (200, ask),
    "200 ask and leave": (200, ask_and_leave),
    "600 slow headers": (4, slow_headers),
    "600 slow bodies": (4, slow_bodies),
    "20 bodies of 30 MB that stop": (20, large_bodies_that_stop),
    "600 that never read": (4, never_read),
    "16 hostile bodies": (16, hostile_bodies),
    "16 pixel bombs": (16, pixel_bombs),
}


def whole(content: bytes) -> bytes:
    """Write a request with its length."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


def start_of_a_part() -> bytes:
    """Begin the picture of a body."""
    return body("a.jpg", b"").split(b"\r\n\r\n")[0] + b"\r\n\r\n"


def start_of_a_chunk() -> bytes:
    """Begin the picture of a body that comes in chunks."""
    return b"%x\r\n" % len(start_of_a_part()) + start_of_a_part() + b"\r\n"


def said_png(side: int) -> bytes:
    """Write a PNG of a few bytes that says it is a square of `side` pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def attack(name: str, port: int, seconds: float, picture: bytes, told: "multiprocessing.Queue[Counter[str]]") -> None:
    """Attack in as many threads as the attack has, and tell what was answered."""
    siege, (count, one) = Siege(port, seconds, picture), ATTACKS[name]
    threads = [threading.Thread(target=one, args=(siege,), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, siege.until - time.monotonic()))
    told.put(siege.told)


# ---- the healthy client ----------------------------------------------------------------------------------------------


class Healthy:
    """A client with a picture: what it was answered, and how soon."""

    def __init__(self, port: int, picture: bytes) -> None:
        self.port, self.picture = port, picture
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.scores: set[float] = set()

    def ask(self) -> None:
        """Ask once, by a connection of its own."""
        begun = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=MOST_SECONDS)
        try:
            connection.request("POST", "/predict", self.picture, HEADERS)
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            self.statuses[type(error).__name__] += 1
            return
        finally:
            connection.close()
        self.statuses[str(response.status)] += 1
        if response.status == 200:
            self.seconds.append(time.perf_counter() - begun)
            self.scores.add(json.loads(content)["answers"][0]["score"])


def besieged(name: str, port: int, pid: int, seconds: float, picture: bytes) -> tuple[Healthy, int, Counter[str]]:
    """Attack, ask meanwhile, and look how much memory the service holds: what the healthy client and others got."""
    told: multiprocessing.Queue[Counter[str]] = multiprocessing.Queue()
    attackers = multiprocessing.Process(target=attack, args=(name, port, seconds, picture, told), daemon=True)
    attackers.start()
    healthy, most, until = Healthy(port, picture), 0, time.monotonic() + seconds
    asking = []
    while time.monotonic() < until:
        asking.append(threading.Thread(target=healthy.ask))
        asking[-1].start()
        following = time.monotonic() + EVERY_SECONDS
        while time.monotonic() < following:
            most = max(most, resident_mib(pid))
            time.sleep(0.05)
    for one in asking:
        one.join()
    statuses = told.get(timeout=60)
    attackers.kill()  # with whatever it still holds open
    attackers.join()
    return healthy, most, statuses


def main() -> None:
    """Attack the service in every way, one after the other, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle or a run")
    parser.add_argument("--pictures", required=True, help="a folder of pictures, the first of which is asked for")
    parser.add_argument("--seconds", type=float, default=10, help="of each attack")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=list(ATTACKS))
    given = parser.parse_args()
    item = find_pictures([given.pictures])[0]
    picture = body(Path(item.name).name, item.read())
    process, address = started(given.model)
    port = urlsplit(address).port or 0
    print(machine())
    print(f"{'attack':30} {'healthy':>9} {'p95, s':>7} {'MiB':>5}  what healthy clients got; what attackers got")
    scores: set[float] = set()
    for name in given.attacks:
        healthy, most, told = besieged(name, port, process.pid, given.seconds, picture)
        scores |= healthy.scores
        asked, found = sum(healthy.statuses.values()), healthy.statuses["200"]
        p95 = f"{np.percentile(healthy.seconds, 95):.2f}" if healthy.seconds else "-"
        got = f"{dict(healthy.statuses.most_common())}; {dict(told.most_common())}"
        print(f"{name:30} {f'{found}/{asked}':>9} {p95:>7} {most:>5}  {got}", flush=True)
    print(f"the healthy client's scores were within {max(scores) - min(scores):.1e}")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(HEAD + b"Content-Length: 999\r\n\r\n" + start_of_a_part())
        time.sleep(0.5)
        begun = time.monotonic()
        process.terminate()
        code = process.wait(60)
    print(f"after SIGTERM, with a body that does not come, it ended with {code} in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
