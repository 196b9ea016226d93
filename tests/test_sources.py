"""Where data comes from: folders, the cache, and mirrors that fail in every way, played by a server on the loopback."""

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tasks.sources
from tasks.sources import DATA_VARIABLE, OFFLINE_VARIABLE, DataError, RemoteFile, locate

NAME = "digits.gz"
CONTENT = gzip.compress(bytes(range(256)) * 512, mtime=0) + b"\0" * 200_000  # several chunks of the downloader
FLIPPED = CONTENT[:-1] + b"\1"
HTML = b"\n<!DOCTYPE html><title>Sign in to this network</title>"
MAX_BYTES = len(CONTENT) + 1000


class Mirrors(ThreadingHTTPServer):
    """A server whose first folder says how it behaves: /ok/digits.gz, /truncated/digits.gz, ..."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.together = threading.Barrier(2)
        self.stop_hanging = threading.Event()

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/{NAME}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that refuses the rest of a body hangs up
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Mirrors

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        self.server.requests.append(behaviour)
        match behaviour:
            case "ok":
                self.reply(CONTENT)
            case "together":  # nobody gets an answer before the second client has asked
                self.server.together.wait(timeout=10)
                self.reply(CONTENT)
            case "moved":
                self.reply(b"", status=302, headers={"Location": self.server.url("ok")})
            case "labelled-gzip":
                self.reply(CONTENT, headers={"Content-Encoding": "gzip"})
            case "truncated":
                self.reply(CONTENT[:100_000], length=len(CONTENT))
            case "flipped":
                self.reply(FLIPPED)
            case "html":
                self.reply(HTML)
            case "announces-too-much":
                self.reply(CONTENT, length=MAX_BYTES + 1)
            case "sends-too-much":  # without Content-Length the body ends where the connection does
                self.reply(CONTENT + bytes(10_000_000), length=None)
            case "hangs":
                self.reply(CONTENT[:1000], length=len(CONTENT))
                self.server.stop_hanging.wait(timeout=10)
            case "silent":
                self.server.stop_hanging.wait(timeout=10)
            case _:
                self.reply(HTML, status=404)

    def reply(
        self, body: bytes, *, status: int = 200, length: int | None = -1, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    with Mirrors() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stop_hanging.set()
        server.together.abort()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set "letters" in a cache of the test's own, not made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (DATA_VARIABLE, OFFLINE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "cache" / "framework-bench" / "letters"


def remote(*urls: str) -> RemoteFile:
    return RemoteFile(NAME, sha256=hashlib.sha256(CONTENT).hexdigest(), urls=urls, max_bytes=MAX_BYTES)


def fetch(*urls: str, data_dir: Path | None = None) -> Path:
    return locate("letters", remote(*urls), data_dir=data_dir, timeout_s=0.3)


def error_of(*urls: str, data_dir: Path | None = None) -> str:
    """The message of the DataError; it is one line and names the file."""
    with pytest.raises(DataError) as caught:
        fetch(*urls, data_dir=data_dir)
    message = str(caught.value)
    assert NAME in message
    assert "\n" not in message
    return message


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write more than `size` bytes to any file."""
    resource = pytest.importorskip("resource", reason="needs POSIX's limit on the size of files, to play a full disk")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def refusing_url() -> Iterator[str]:
    with socket.socket() as bound:  # bound but not listening, so that nobody else takes the port
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/{NAME}"


FAILURES = {
    "missing": "HTTP status 404",
    "truncated": "truncated: ",
    "flipped": (
        f"wrong sha256: expected {hashlib.sha256(CONTENT).hexdigest()[:12]}..., "
        f"found {hashlib.sha256(FLIPPED).hexdigest()[:12]}..., {len(CONTENT):,} bytes"
    ),
    "html": "an HTML page instead of the file",
    "announces-too-much": f"too large: more than {MAX_BYTES:,} bytes",
    "sends-too-much": f"too large: more than {MAX_BYTES:,} bytes",
    "hangs": "time-out: nothing received for 0.3 s",
    "silent": "time-out: nothing received for 0.3 s",
}


@pytest.mark.parametrize("behaviour", ["ok", "moved", "labelled-gzip"])
def test_a_download_is_the_published_bytes(
    mirrors: Mirrors, cache: Path, capfd: pytest.CaptureFixture[str], behaviour: str
) -> None:
    assert fetch(mirrors.url(behaviour)) == cache / NAME
    assert files_in(cache) == {NAME: CONTENT}
    assert capfd.readouterr() == ("", "")  # no progress bar where nobody looks


@pytest.mark.parametrize("behaviour", FAILURES)
@pytest.mark.slow
def test_the_second_mirror_takes_over(mirrors: Mirrors, cache: Path, behaviour: str) -> None:
    assert fetch(mirrors.url(behaviour), mirrors.url("ok")) == cache / NAME
    assert files_in(cache) == {NAME: CONTENT}
    assert mirrors.requests == [behaviour, "ok"]


@pytest.mark.parametrize(("behaviour", "reason"), FAILURES.items(), ids=FAILURES)
@pytest.mark.slow
def test_a_mirror_that_fails_is_named_with_its_reason(
    mirrors: Mirrors, cache: Path, behaviour: str, reason: str
) -> None:
    assert f"({mirrors.url(behaviour)}: {reason}" in error_of(mirrors.url(behaviour))
    assert files_in(cache) == {}


def test_all_mirrors_failed(mirrors: Mirrors, cache: Path, refusing_url: str) -> None:
    message = error_of(mirrors.url("missing"), refusing_url, mirrors.url("html"))
    assert message == (
        f"digits.gz of letters could not be downloaded ({mirrors.url('missing')}: HTTP status 404; "
        f"{refusing_url}: Connection refused; {mirrors.url('html')}: an HTML page instead of the file); "
        "give --data-dir DIR or set FRAMEWORK_BENCH_DATA to a folder that holds it"
    )
    assert files_in(cache) == {}


def test_a_body_beyond_the_cap_is_never_written(mirrors: Mirrors) -> None:
    with largest_file(MAX_BYTES):
        assert ": too large: more than " in error_of(mirrors.url("sends-too-much"))


def test_a_cached_file_needs_no_request(mirrors: Mirrors) -> None:
    first = fetch(mirrors.url("ok"))
    assert fetch(mirrors.url("ok")) == first
    assert mirrors.requests == ["ok"]


def test_a_damaged_cached_file_is_moved_aside(
    mirrors: Mirrors, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(FLIPPED)
    assert fetch(mirrors.url("ok")) == cache / NAME
    assert files_in(cache) == {NAME: CONTENT, "digits.gz.corrupt": FLIPPED}
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {cache / NAME} is damaged (wrong sha256: ")
    assert warning.endswith("moved to digits.gz.corrupt\n")


def test_a_damaged_cached_file_is_never_returned(mirrors: Mirrors, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(FLIPPED)
    error_of(mirrors.url("missing"))
    assert files_in(cache) == {"digits.gz.corrupt": FLIPPED}


@pytest.mark.slow
def test_two_processes_at_once(mirrors: Mirrors, cache: Path) -> None:
    code = (
        "import sys; from tasks.sources import RemoteFile, locate\n"
        "file = RemoteFile(sys.argv[1], sha256=sys.argv[2], urls=(sys.argv[3],), max_bytes=int(sys.argv[4]))\n"
        "print(locate('letters', file, data_dir=None))"
    )
    file = remote(mirrors.url("together"))
    command = [sys.executable, "-c", code, file.name, file.sha256, file.urls[0], str(file.max_bytes)]
    root = Path(tasks.sources.__file__).parents[1]
    processes = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        results = [process.communicate(timeout=20) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert results == [(f"{cache / NAME}\n", "")] * 2
    assert mirrors.requests == ["together"] * 2
    assert files_in(cache) == {NAME: CONTENT}


def test_offline_nothing_is_requested(mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    message = error_of(mirrors.url("ok"))
    assert (
        f"not in the cache ({cache / NAME}) and FRAMEWORK_BENCH_OFFLINE forbids a download; give --data-dir" in message
    )
    assert mirrors.requests == []
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT)
    assert fetch(mirrors.url("ok")) == cache / NAME


@pytest.mark.parametrize("value", ["0", ""])
def test_offline_switched_off(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(OFFLINE_VARIABLE, value)
    fetch(mirrors.url("ok"))
    assert mirrors.requests == ["ok"]


def test_a_cache_that_cannot_be_made(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is expected")
    message = error_of(mirrors.url("ok"))
    assert "the cache cannot be used: " in message
    assert "grant write permission there, or give --data-dir DIR" in message
    assert mirrors.requests == []


def test_a_folder_under_the_name_of_a_cached_file(mirrors: Mirrors, cache: Path) -> None:
    (cache / NAME).mkdir(parents=True)
    assert "the cache cannot be used: Is a directory" in error_of(mirrors.url("ok"))


def test_a_full_disk_ends_the_search_and_leaves_nothing(mirrors: Mirrors, cache: Path) -> None:
    with largest_file(100_000):
        message = error_of(mirrors.url("ok"), mirrors.url("ok"))
    assert "the cache cannot be used: File too large; free some space or " in message
    assert mirrors.requests == ["ok"]
    assert files_in(cache) == {}


def test_a_download_that_is_interrupted_leaves_nothing(
    mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        assert len(list(cache.iterdir())) == 1  # the temporary file, in the folder of the final one
        assert not (cache / NAME).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(mirrors.url("ok"))
    assert files_in(cache) == {}


@pytest.mark.parametrize("progress", [True, False])
def test_progress_on_a_terminal(
    mirrors: Mirrors, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    locate("letters", remote(mirrors.url("ok")), data_dir=None, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert (NAME in err) == progress


def test_a_folder_of_the_users_own(mirrors: Mirrors, tmp_path: Path) -> None:
    """DIR/dataset/name before DIR/name, the compressed before the plain file; whatever the content."""
    places = [tmp_path / place for place in ("letters/digits.gz", "letters/digits", "digits.gz", "digits")]
    (tmp_path / "letters").mkdir()
    for place in reversed(places):
        place.write_bytes(b"a subset")
        assert fetch(mirrors.url("ok"), data_dir=tmp_path) == place
    assert mirrors.requests == []


def test_a_folder_without_the_file_is_an_error(mirrors: Mirrors, cache: Path, tmp_path: Path) -> None:
    fetch(mirrors.url("ok"))  # in the cache, and still not taken from there
    (tmp_path / "letters" / NAME).mkdir(parents=True)  # a folder is not the file
    message = error_of(mirrors.url("ok"), data_dir=tmp_path)
    assert message == (
        f"digits.gz of letters is not in the folder given by --data-dir: neither {tmp_path / 'letters' / NAME} nor "
        f"{tmp_path / NAME} is a file (nor uncompressed, without .gz); "
        "put it there, or omit --data-dir to download it"
    )
    assert mirrors.requests == ["ok"]


def test_a_name_without_gz_has_no_other_form(tmp_path: Path) -> None:
    (tmp_path / "input").touch()
    file = RemoteFile("input.txt", sha256="", urls=(), max_bytes=0)
    with pytest.raises(DataError, match=r"input\.txt is a file; put it there"):
        locate("letters", file, data_dir=tmp_path)


def test_the_folder_of_the_environment(mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    monkeypatch.setenv(DATA_VARIABLE, str(theirs))
    assert f"given by FRAMEWORK_BENCH_DATA: neither {theirs / 'letters' / NAME} nor" in error_of(mirrors.url("ok"))
    for folder in (theirs, mine):
        folder.mkdir()
        (folder / NAME).touch()
    assert fetch(mirrors.url("ok")) == theirs / NAME
    assert fetch(mirrors.url("ok"), data_dir=mine) == mine / NAME
    assert mirrors.requests == []


def test_an_empty_environment_variable_is_none(mirrors: Mirrors, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "")
    assert fetch(mirrors.url("ok")) == cache / NAME


def test_a_folder_that_cannot_be_searched(tmp_path: Path) -> None:
    message = error_of(data_dir=tmp_path / ("x" * 300))
    assert "cannot be searched for digits.gz of letters: File name too long" in message


def test_the_network_libraries_are_imported_only_to_download() -> None:
    code = "import sys, tasks.idx; print({'pooch', 'requests', 'rich', 'urllib3'} & set(sys.modules))"
    root = Path(tasks.sources.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"
