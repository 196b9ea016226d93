"""Locks of the kernel: one run per folder, one measurement per device and user.

A lock belongs to an open file, which no child inherits, so it ends with its process, however that ends. The file stays and says
who holds it.
"""

import fcntl
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import platformdirs

from bench.machine import nvml
from bench.records import files
from bench.records.text import printable

NAME = ".framework-bench.lock"
"""The lock's file in a folder."""


class Held(RuntimeError):
    """Somebody else has the lock; the message says who."""


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """The only run into a folder; Held if there is another one."""
    with _open(path / NAME) as file, _locked(file, "run into this folder", wait=None):
        yield


@contextmanager
def device(name: str, *, purpose: str, tell: Callable[[str], object]) -> Iterator[None]:
    """The only measurement of this user on a device ("cpu" or "gpu"): tells who is before it, and sleeps until that is gone.

    A GPU is told apart by its UUID, or without a driver by its place in CUDA_VISIBLE_DEVICES. Without a writable cache there is
    no lock, which is told too.
    """
    if name == "gpu":
        name += "-" + (nvml.uuid() or os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0")
    place = platformdirs.user_cache_path("framework-bench") / "locks"
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Machines may share a home directory.
        file = _open(place / re.sub(r"[^\w.-]", "_", f"{platform.node()}-{name}.lock"))
    except OSError as error:
        tell(f"nothing keeps other runs from the {name}: {place}: {error.strerror}")
        yield
        return
    with file, _locked(file, purpose, wait=lambda holder: tell(f"waiting for the {name}: {holder}")):
        yield


@contextmanager
def place(path: Path, *, purpose: str, tell: Callable[[str], object]) -> Iterator[None]:
    """The only process that makes what is to be at a path of the cache: tells who is before it, and sleeps meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _open(path.with_name(f"{path.name}.lock")) as file,
        _locked(file, purpose, wait=lambda holder: tell(f"waiting for {path.name}: {holder}")),
    ):
        yield


def _open(path: Path) -> IO[bytes]:
    return open(path, "a+b", buffering=0, opener=files.no_link)  # through a link it would empty somebody's file


@contextmanager
def _locked(file: IO[bytes], purpose: str, *, wait: Callable[[str], object] | None) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        if wait is None:
            raise Held(holder) from None
        wait(holder)
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    text = f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {purpose}\n"
    file.write(text.encode(errors="replace"))
    try:
        yield
    finally:
        file.truncate(0)
        fcntl.flock(file, fcntl.LOCK_UN)


def _holder(file: IO[bytes]) -> str:
    """Who wrote the file; it may have the lock for so short a time that it is still to write."""
    for _ in range(20):
        file.seek(0)
        if text := file.read(500).decode(errors="replace").strip():
            return printable(text)
        time.sleep(0.05)
    return "another process"
