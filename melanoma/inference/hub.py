"""Bundles on the Hugging Face hub: fetched by address, or published.

What is fetched is what the bundle's own list of hashes names, and it is checked against that before it is used.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from melanoma.errors import MelanomaError, MissingExtraError, ModelError, UsageError
from melanoma.inference.bundle import CARD, SUMS, listed_hashes, read_bundle

ADDRESS = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?")
SUFFIXES = {".onnx", ".json", ".md", ".npz"}
MOST_FILES, LARGEST_BYTES, LARGEST_SUMS_BYTES = 200, 2**31, 2**16
FRONT = "---\nlibrary_name: melanoma\ntags:\n- melanoma\n- dermoscopy\n- image-classification\n{}\n---\n\n"
LICENCES = {"CC BY-NC 4.0": "cc-by-nc-4.0", "CC BY 4.0": "cc-by-4.0", "CC0 1.0": "cc0-1.0", "Apache-2.0": "apache-2.0"}


def fetch_bundle(address: str) -> Path:
    """Fetch the bundle at hf://owner/name or hf://owner/name@revision, and return the folder that it lies in.

    Files stay in the hub's own cache (HF_HOME): what was fetched once is there without a connection too. Raises
    UsageError for what is no address, ModelError where it cannot be had or is no bundle.
    """
    name, revision = _parts(address)
    with _hub(f"{address} cannot be fetched", ModelError) as hub:

        def fetch(file: str, commit: str | None, largest: int) -> Path:
            try:
                known = hub.hf_hub_download(name, file, revision=commit, dry_run=True)
            except hub.errors.RemoteEntryNotFoundError as error:
                raise ModelError(f"{address} is no bundle: it has no {file}") from error
            if known.file_size is None or known.file_size > largest:
                raise ModelError(f"{address} is no bundle: {file} has over {largest:,} bytes")
            return Path(hub.hf_hub_download(name, file, revision=known.commit_hash))

        sums = fetch(SUMS, revision, LARGEST_SUMS_BYTES)
        commit, files = sums.parent.name, listed_hashes(sums)
        strange = [file for file in files if Path(file).name != file or Path(file).suffix not in SUFFIXES]
        if strange or not 0 < len(files) <= MOST_FILES:
            raise ModelError(f"{address} is no bundle: its {SUMS} names {len(files):,} files, {strange[:1]} among them")
        for file in files:
            fetch(file, commit, LARGEST_BYTES)
    return sums.parent


def push_bundle(folder: Path, address: str, licence: str | None) -> str:
    """Publish a bundle at hf://owner/name, and return its address with the revision that it has there.

    A repository that is not there yet is made, and private: nothing becomes public by mistake. licence: of the data,
    which the weights carry. Raises UsageError for what is no address, MelanomaError where it cannot be written.
    """
    name, revision = _parts(address)
    bundle = read_bundle(folder)
    card = FRONT.format(_licence(licence or "not stated")) + (folder / CARD).read_text(encoding="utf-8")
    with _hub(f"{address} cannot be written", MelanomaError) as hub:
        api = hub.HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        files = [hub.CommitOperationAdd(file, folder / file) for file in (SUMS, *bundle.files)]
        files.append(hub.CommitOperationAdd("README.md", card.encode()))  # what the hub shows
        done = api.create_commit(name, files, commit_message=f"Bundle {bundle.name}", revision=revision)
    return f"hf://{name}@{done.oid}"


def _licence(licence: str) -> str:
    """Write the front matter's lines for a licence: the hub's own name of it, or "other" with the text in quotes."""
    known = LICENCES.get(licence)
    return f"license: {known}" if known else f"license: other\nlicense_name: {json.dumps(licence)}"


def _parts(address: str) -> tuple[str, str | None]:
    matched = ADDRESS.fullmatch(address)
    if matched is None:
        raise UsageError(f"{address!r:.100} is no address: write hf://owner/name or hf://owner/name@revision")
    return matched[1], matched[2]


@contextmanager
def _hub(failed: str, kind: type[MelanomaError]) -> Iterator[Any]:
    """Give the hub's own package, with what it raises as one sentence, and without its telemetry."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as missing:
        raise MissingExtraError("huggingface_hub", "hub") from missing
    try:
        yield huggingface_hub
    except MelanomaError:
        raise
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise kind(f"{failed}: there is no such revision") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise kind(
            f"{failed}: it is not there, or not for you; HF_TOKEN or `hf auth login` says who you are"
        ) from error
    except Exception as error:  # its other kinds, those of its HTTP client, of the disk
        first = str(error).strip().splitlines()[:1]
        raise kind(f"{failed}: {first[0] if first else type(error).__name__}") from error
