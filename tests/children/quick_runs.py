"""Real runs of `framework-bench` whose processes take milliseconds, to be killed and interrupted by the dozen.

`QuickRuns` starts this module as a server. It imports the harness once and forks for every run; the run's own processes are a
small program (WORKER) in place of bench.worker, which answers what a good one would.

A run may be given a `fate`, which strikes at its n-th step of writing to the disk: "killed" by SIGKILL, or "full": from then on
no file can grow beyond 2,000 bytes (RLIMIT_FSIZE), which is more than a run says and less than a record.
"""

import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
KINDS = ("parity", "pilot", "speed", "memory", "quality")
PATIENCE_S = 120.0  # for a whole run

WORKER = """
import json, os, sys
figures, request, answer = sys.argv[1:]
with open(request) as file:
    cell = json.load(file)["cell"]
made = json.loads(figures)[cell["kind"]]
if made["settings"]:
    made["settings"]["mode"] = cell["arm"]["mode"]
if made.get("quality"):
    made["quality"]["steps"] = made["quality"]["curve"][-1][0] = cell["spec"]["train_steps"]
try:
    with open(answer + ".new", "w") as file:
        json.dump({"status": "ok", **made}, file)
    os.rename(answer + ".new", answer)
except OSError as error:
    print(error.strerror)
    sys.exit(os.EX_IOERR)
"""


class Run:
    """One run, started."""

    def __init__(self, runs: "QuickRuns", pid: int, output: Path) -> None:
        self.runs, self.pid, self.output = runs, pid, output

    def wait(self) -> int:
        """Its exit code; minus the number of a signal that ended it."""
        return int(self.runs.ask(wait=self.pid))

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""  # it may not have begun


class QuickRuns:
    """Starts runs; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.children.quick_runs"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def __enter__(self) -> "QuickRuns":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.server.kill()
            raise

    def ask(self, **question: Any) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(question), file=self.server.stdin, flush=True)
        assert select.select([self.server.stdout], [], [], PATIENCE_S)[0], f"no answer within {PATIENCE_S:g} s"
        return json.loads(self.server.stdout.readline())

    def start(self, *arguments: object, fate: tuple[str, int] | None = None) -> Run:
        """framework-bench with these arguments."""
        self.number += 1
        output = self.folder / f"said-{self.number}"
        words = [str(argument) for argument in arguments]
        return Run(self, self.ask(start=words, output=str(output), fate=fate), output)

    def run(self, *arguments: object, fate: tuple[str, int] | None = None) -> tuple[int, str]:
        """The exit code and everything that was said."""
        run = self.start(*arguments, fate=fate)
        return run.wait(), run.said


def serve() -> None:
    """Answers requests on standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
    from bench.campaign import (
        campaign,  # noqa: F401
        plan,  # noqa: F401
        resume,  # noqa: F401
    )
    from bench.cli import (
        commands,
        progress,  # noqa: F401
    )
    from bench.machine import locks  # noqa: F401
    from bench.process import launch
    from bench.report import markdown, table_csv, terminal  # noqa: F401
    from tests.builders import good_figures, in_no_time
    from tests.fakes import backend  # noqa: F401
    from tests.fakes.campaign import a_planned_cell

    cells = [a_planned_cell(kind=kind)[1] for kind in KINDS]
    figures = json.dumps(msgspec.to_builtins({cell.kind: in_no_time(good_figures(cell)) for cell in cells}))
    command = [sys.executable, "-I", "-S", "-c", WORKER, figures]
    launch.worker_command = lambda request, answer, **_: [*command, str(request), str(answer)]
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(_run(commands.main, asked))
        print(json.dumps(answer), flush=True)


def _run(main: Any, asked: dict[str, Any]) -> int:
    with open(asked["output"], "w", buffering=1) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdin = io.StringIO()
        sys.argv = ["framework-bench", *asked["start"]]
        try:
            if asked["fate"]:
                _strike(*asked["fate"])
            code: int = main()
        except SystemExit as error:
            code = int(str(error.code))
        except KeyboardInterrupt:  # before or after it could be handled
            code = 130
        sys.stdout.flush()
        sys.stderr.flush()
        return code


def _strike(fate: str, at: int) -> None:
    """Strikes at the n-th of: before a file's content is made durable, after a file has got its name."""
    sync, replace, calls = os.fsync, os.replace, 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == at and fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == at and fate == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    def fsync(descriptor: int) -> None:
        count()
        sync(descriptor)

    def rename(*names: Any) -> None:
        replace(*names)
        count()

    os.fsync, os.replace = fsync, rename


if __name__ == "__main__":
    serve()
