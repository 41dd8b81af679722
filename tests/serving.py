"""Starts `melanoma serve` as a user does, for the tests that ask it over HTTP."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Service:
    """A running service: its process, and the address that it printed."""

    process: subprocess.Popen[str]
    address: str


@contextmanager
def serving(model: Path, *options: object) -> Iterator[Service]:
    """Serve a bundle on a free port of this machine until the block ends."""
    command = [sys.executable, "-m", "melanoma", "serve", "--model", str(model), "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        told = re.search(r"on (http://\S+);", line)
        assert told, line + process.stderr.read()
        yield Service(process, told[1])
    finally:
        process.terminate()
        process.communicate(timeout=60)
