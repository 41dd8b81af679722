"""The one family of errors that a user meets: one sentence with the place, the reason and what to do.

Any other exception that leaves the package is a bug, and keeps its traceback.
"""

from collections.abc import Sequence


class MelanomaError(Exception):
    """Something the user can mend: data, files or a run that failed."""

    exit_code = 1


class WriteError(MelanomaError):
    """A file or folder that cannot be written; what stood there before still does.

    cause: what the system said.
    """

    def __init__(self, message: str, cause: OSError) -> None:
        super().__init__(message)
        self.cause = cause

    def __reduce__(self) -> tuple[type, tuple[str, OSError]]:
        """Let it be pickled: it travels from a worker process as it is."""
        return type(self), (str(self), self.cause)


class DataError(MelanomaError):
    """A table, an image or a fold file is not what it must be.

    details: every row, name or pair that is meant, where the sentence names only the first few.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


class UnreachableError(MelanomaError):
    """A store that gives no answer or no access now, and so says nothing of what is kept there."""


class UsageError(MelanomaError):
    """A setting or an argument that cannot be."""

    exit_code = 2


class MissingExtraError(MelanomaError):
    """A package is needed that the core install does not bring."""

    exit_code = 3

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; get it with: pip install 'melanoma[{extra}]'")
        self._given = package, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Let it be pickled: it travels from a worker process as it is."""
        return type(self), self._given


class ModelError(MelanomaError):
    """A bundle or a weight file that is missing, damaged or of another network."""

    exit_code = 4


LISTED = 5  # names in a sentence


def listed(names: list[str], most: int = LISTED) -> str:
    """Join the first few names of a list and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def printable(text: str) -> str:
    """Replace whatever could move a terminal's cursor or break a line: for names that come from files."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
