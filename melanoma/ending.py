"""How a command ends: its exit code, and its last sentence on stderr."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from cyclopts import CycloptsError

from melanoma.errors import MelanomaError, UsageError, WriteError, printable
from melanoma.files import FULL, unwritable

INTERRUPTED = 130


def ended(command: Callable[[], object], resumable: Sequence[Path]) -> int:
    """Run a command and return its exit code. resumable: the run at work, last, which can be gone on with."""
    try:
        code = _code_of(command, resumable)
    except Exception:  # a bug
        traceback.print_exc()
        code = MelanomaError.exit_code
    if "melanoma.training.team" in sys.modules:  # others may be at work with this process
        sys.modules["melanoma.training.team"].team.end(code)
    return code


def _code_of(command: Callable[[], object], resumable: Sequence[Path]) -> int:
    try:
        command()
        sys.stdout.flush()
    except CycloptsError as error:
        print(f"melanoma: {error} (melanoma --help lists what there is)", file=sys.stderr)
        return UsageError.exit_code
    except MelanomaError as error:
        again = isinstance(error, WriteError) and resumable and resumable[-1].exists()
        go_on = f"; a run goes on with: melanoma resume {resumable[-1]}" if again else ""
        print(f"melanoma: {printable(str(error))}{go_on}", file=sys.stderr)  # it may quote a stranger's table
        return error.exit_code
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MelanomaError.exit_code
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"melanoma: {unwritable(error.filename or 'what was printed', error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what could not be written is not tried again
        return MelanomaError.exit_code
    except KeyboardInterrupt:
        go_on = f"; go on with: melanoma resume {resumable[-1]}" if resumable else ""
        print(f"\nmelanoma: interrupted{go_on}", file=sys.stderr)
        return INTERRUPTED
    return 0
