"""Starts `melanoma serve` as a user does, for the tests that ask it over HTTP."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread


@dataclass(frozen=True)
class Service:
    """A running service: its process, the address that it printed, and the lines that it printed so far."""

    process: subprocess.Popen[str]
    address: str
    said: list[str]


@contextmanager
def serving(model: Path, *options: object, first: str = "") -> Iterator[Service]:
    """Serve a bundle on a free port of this machine until the block ends. first: Python that is run before."""
    program = ["-c", f"{first}\nfrom melanoma.cli import main\nmain()"] if first else ["-m", "melanoma"]
    command = [sys.executable, *program, "serve", "--model", str(model), "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = [process.stderr.readline()]
    reading = Thread(target=said.extend, args=(process.stderr,), daemon=True)  # a full pipe would stop the service
    reading.start()
    try:
        told = re.search(r"on (http://\S+);", said[0])
        assert told, said
        yield Service(process, told[1], said)
    finally:
        process.terminate()
        process.wait(60)
        reading.join(10)
        process.stderr.close()
