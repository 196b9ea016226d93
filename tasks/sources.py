"""Where data comes from: a folder of the user's, the cache, or a list of mirrors.

A folder that the user names is trusted and is all that is looked at: nothing is downloaded behind its back, and its
files are not checked against a hash, because a subset or another edition is the user's choice (the hash of what was
read is part of the spec). A file from a mirror is accepted only with the expected sha256, fresh or from the cache.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import platformdirs

from tasks.spec import DataDir, SpecError

DATA_VARIABLE = "FRAMEWORK_BENCH_DATA"
OFFLINE_VARIABLE = "FRAMEWORK_BENCH_OFFLINE"
HINT = f"give --data-dir DIR or set {DATA_VARIABLE} to a folder that holds it"

CHUNK_BYTES = 1 << 16


class DataError(SpecError):
    """A data file is missing, damaged or unavailable. One line: the file, what was expected and found, what to do."""


class _MirrorError(Exception):
    """Why one mirror did not deliver."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file; `urls` are mirrors of the same bytes, tried in order."""

    name: str
    sha256: str
    urls: tuple[str, ...]
    max_bytes: int  # a download is stopped beyond this size


def locate(
    dataset: str, file: RemoteFile, *, data_dir: DataDir, progress: bool = True, timeout_s: float = 30.0
) -> Path:
    """The path of a data file, downloaded into the cache if need be.

    Looked for in `data_dir`, else in the folder that FRAMEWORK_BENCH_DATA names: DIR/dataset/name, then DIR/name. There
    a name in .gz may also lie uncompressed, without the .gz. With no folder given, the file comes from the cache, or
    from the first mirror that delivers the expected sha256 unless FRAMEWORK_BENCH_OFFLINE=1 forbids a download.

    `progress` shows a bar while downloading, if stderr is a terminal; `timeout_s` is the longest silence of a mirror.
    Raises DataError.
    """
    if data_dir is not None:
        return _in_folder(data_dir, origin="--data-dir", dataset=dataset, name=file.name)
    if folder := os.environ.get(DATA_VARIABLE):
        return _in_folder(Path(folder).expanduser(), origin=DATA_VARIABLE, dataset=dataset, name=file.name)
    path = platformdirs.user_cache_path("framework-bench") / dataset / file.name
    try:
        if not _is_cached(path, sha256=file.sha256):
            _download(dataset, file, path=path, progress=progress and sys.stderr.isatty(), timeout_s=timeout_s)
    except OSError as error:  # the disk's: a mirror's errors are collected as _MirrorError
        why = error.strerror or error
        raise DataError(
            f"{path}: the cache cannot be used: {why}; free some space or grant write permission there, or {HINT}"
        ) from error
    return path


def _in_folder(folder: Path, *, origin: str, dataset: str, name: str) -> Path:
    places = (folder / dataset / name, folder / name)
    try:
        for place in places:
            plain = place.with_suffix("") if name.endswith(".gz") else place
            for path in (place, plain):
                if path.is_file():
                    return path
    except OSError as error:
        raise DataError(f"{folder}: cannot be searched for {name} of {dataset}: {error.strerror}; check it") from error
    also = " (nor uncompressed, without .gz)" if name.endswith(".gz") else ""
    raise DataError(
        f"{name} of {dataset} is not in the folder given by {origin}: "
        f"neither {places[0]} nor {places[1]} is a file{also}; put it there, or omit {origin} to download it"
    )


def _is_cached(path: Path, *, sha256: str) -> bool:
    """Whether the cache holds exactly this file. Another file under its name is moved aside, with a warning."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return False
    if found == sha256:
        return True
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    print(f"warning: {path} is damaged ({_mismatch(found, sha256)}); moved to {aside.name}", file=sys.stderr)
    return False


def _download(dataset: str, file: RemoteFile, *, path: Path, progress: bool, timeout_s: float) -> None:
    if os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0"):
        raise DataError(
            f"{file.name} of {dataset} is not in the cache ({path}) and {OFFLINE_VARIABLE} forbids a download; {HINT}"
        )
    import pooch

    pooch.get_logger().setLevel("WARNING")  # its notes on each download would land between the lines of a table
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in file.urls:
        try:
            # pooch writes to a temporary name in the same folder, checks the hash and renames. Whoever downloads the
            # same file at the same time does so under another temporary name, and the last rename wins.
            pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}",
                fname=path.name,
                path=path.parent,
                downloader=partial(_stream, file=file, progress=progress, timeout_s=timeout_s),
            )
            return
        except _MirrorError as error:
            failures.append(f"{url}: {error}")
    raise DataError(f"{file.name} of {dataset} could not be downloaded ({'; '.join(failures)}); {HINT}")


def _stream(url: str, output: str, _: object, *, file: RemoteFile, progress: bool, timeout_s: float) -> None:
    """A downloader for pooch: `url` into the file `output`, or _MirrorError."""
    import requests
    import rich.console
    import rich.progress
    import urllib3

    too_large = f"too large: more than {file.max_bytes:,} bytes"
    digest = hashlib.sha256()
    # Without this header a server may compress a plain file once more; with it, the bytes sent are the file's own.
    headers = {"Accept-Encoding": "identity"}
    try:
        with (
            requests.get(url, stream=True, timeout=timeout_s, headers=headers) as response,
            rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.DownloadColumn(),
                rich.progress.TransferSpeedColumn(),
                console=rich.console.Console(stderr=True),
                disable=not progress,
                transient=True,
            ) as bar,
            Path(output).open("wb") as sink,
        ):
            if response.status_code != requests.codes.ok:
                raise _MirrorError(f"HTTP status {response.status_code}")
            announced = response.raw.length_remaining  # of Content-Length; None if the mirror does not say
            if announced is not None and announced > file.max_bytes:
                raise _MirrorError(too_large)
            task = bar.add_task(file.name, total=announced)
            received = 0
            # raw: some mirrors label a .gz file as "Content-Encoding: gzip", which requests would silently unpack.
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                if not received and chunk.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                    raise _MirrorError("an HTML page instead of the file")
                received += len(chunk)
                if received > file.max_bytes:
                    raise _MirrorError(too_large)
                digest.update(chunk)
                sink.write(chunk)
                bar.update(task, completed=received)
            sink.flush()
            os.fsync(sink.fileno())
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _MirrorError(f"time-out: nothing received for {timeout_s:g} s") from error
    except urllib3.exceptions.ProtocolError as error:
        raise _MirrorError(f"truncated: {error.args[0]}") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _MirrorError(_reason(error)) from error
    if digest.hexdigest() != file.sha256:
        raise _MirrorError(f"{_mismatch(digest.hexdigest(), file.sha256)}, {received:,} bytes")


def _mismatch(found: str, expected: str) -> str:
    return f"wrong sha256: expected {expected[:12]}..., found {found[:12]}..."


def _reason(error: BaseException) -> str:
    """In the system's own words where there are any: "Connection refused", not requests' three nested exceptions."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return " ".join(str(error).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
