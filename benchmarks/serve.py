"""The service under load: clients that ask at once for a minute, every answer held against the offline one.

python benchmarks/serve.py --model RUN --pictures FOLDER [--clients 64] [--seconds 60]

It starts `melanoma serve` on this machine and asks it over loopback alone. Clients are threads of this process, which
takes its share of the cores: what is reported is a bound from below. Each asks for one picture at a time, and on 503
waits as long as it is told to.
"""

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from turns import machine

from melanoma.inference.inputs import find_pictures
from melanoma.inference.predict import Predictor

BOUNDARY = "a-line-between-parts"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def body(name: str, content: bytes) -> bytes:
    """Write one picture as a multipart body."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


class Load:
    """What the clients ask, and what they got."""

    def __init__(self, address: str, bodies: list[bytes], expected: list[float | None]) -> None:
        self.address, self.bodies, self.expected = urlsplit(address), bodies, expected
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.furthest = 0.0
        self.lock = threading.Lock()

    def ask(self, seed: int, until: float) -> None:
        """Ask for one picture after the other until the time is over."""
        random = np.random.default_rng(seed)
        connection = http.client.HTTPConnection(self.address.hostname or "", self.address.port, timeout=60)
        while time.perf_counter() < until:
            place = int(random.integers(len(self.bodies)))
            started = time.perf_counter()
            connection.request("POST", "/predict", self.bodies[place], HEADERS)
            response = connection.getresponse()
            content = response.read()
            took = time.perf_counter() - started
            with self.lock:
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.seconds.append(took)
                    self.compare(json.loads(content)["answers"][0]["score"], self.expected[place])
            if response.status == 503:
                time.sleep(float(response.headers["retry-after"]))
        connection.close()

    def compare(self, found: float | None, expected: float | None) -> None:
        """Keep how far an answer was from the offline one; one that is missing in one of them is infinitely far."""
        if (found is None) != (expected is None):
            self.furthest = float("inf")
        elif found is not None and expected is not None:
            self.furthest = max(self.furthest, abs(found - expected))


def resident_mib(pid: int) -> int:
    """Return how much memory a process holds now."""
    told = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(told[1]) // 1024 if told else 0


def started(model: str) -> tuple[subprocess.Popen[str], str]:
    """Start `melanoma serve` on a free port of this machine: its process and its address."""
    command = [sys.executable, "-m", "melanoma", "serve", "--model", model, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = re.search(r"on (http://\S+);", process.stderr.readline())
    assert told, "the service did not start"
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
    return process, told[1]


def main() -> None:
    """Start the service, load it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle or a run")
    parser.add_argument("--pictures", required=True, help="a folder of pictures")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    items = find_pictures([given.pictures])[:200]
    offline = [one.score for one in Predictor(given.model).answer([Path(item.name) for item in items], maps=False)]
    process, address = started(given.model)
    load = Load(address, [body(Path(item.name).name, item.read()) for item in items], offline)
    begun = time.perf_counter()
    until = begun + given.seconds
    clients = [threading.Thread(target=load.ask, args=(seed, until)) for seed in range(given.clients)]
    for client in clients:
        client.start()
    held = []
    while any(client.is_alive() for client in clients):
        held.append(resident_mib(process.pid))
        time.sleep(1)
    took = time.perf_counter() - begun
    process.terminate()
    code = process.wait(60)
    p50, p95, p99 = np.percentile(load.seconds, [50, 95, 99])
    tenth = max(1, len(held) // 10)
    print(machine())
    print(f"{given.clients} clients, {took:.0f} s: {dict(load.statuses)}, {len(load.seconds) / took:.1f} images/s")
    print(f"seconds to an answer: median {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f}")
    print(f"furthest from the offline score: {load.furthest:.1e}")
    early, late = np.mean(held[tenth : 2 * tenth]), np.mean(held[-tenth:])
    print(f"memory, MiB: {early:.0f} early, {late:.0f} late, {max(held)} most")
    print(f"after SIGTERM it ended with {code}")


if __name__ == "__main__":
    main()
