"""`python -m bench.worker.rank`: a rank above 0 of an arm over several processes (bench/worker/ranks.py).

It makes the calls that it reads from its standard input, answers on its standard output, and ends when rank 0 does.
"""

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import backends
from bench.worker import disturbance, ranks
from bench.worker.answer import classify, hide
from bench.worker.ranks import About, Failure, Reply, Start
from tasks.spec import Batch

PR_SET_PDEATHSIG = 1  # prctl(2)


class Follower:
    """The calls that rank 0 makes, and what it knows by a number."""

    def __init__(self, asked: Connection, told: Connection, backend: Any) -> None:
        self.asked, self.told, self.backend = asked, told, backend
        self.kept: dict[int, Any] = {}
        self.latest: Any = None  # session
        self.calls: Mapping[str, Callable[..., None]] = {
            "open": self.open, "prepare": self.prepare, "train_step": self.train_step,
            "train_steps": self.train_steps, "gradients": self.gradients,
            "reset_state": self.reset_state, "fetch": self.fetch, "wait": self.wait, "digest": self.digest,
            "figure": self.figure, "device_memory": self.device_memory, "free_address": self.free_address, "taken": self.taken,
        }  # fmt: skip

    def run(self) -> None:
        """Until rank 0 is gone: EOFError."""
        while True:
            # Unpickled: it comes from rank 0, which started this process, over a pipe that nobody else can open (ranks.py).
            call, arguments, dropped = self.asked.recv()
            for number in dropped:
                self.kept.pop(number, None)
            self.calls[call](*arguments)

    def reply(self, value: Any = None) -> None:
        self.told.send(Reply(value))

    def open(self, number: int, task: Any, params: Any, options: Any) -> None:
        if self.latest is None:
            ranks.check_free(options.addresses[options.rank], rank=options.rank)
        self.latest = self.kept[number] = self.backend.open_session(task, params, options)
        self.reply()

    def prepare(self, number: int, session: int, batch: Batch) -> None:
        self.kept[number] = self.kept[session].prepare(batch)

    def train_step(self, number: int, session: int, prepared: int) -> None:
        own = self.kept[session]
        self.kept[number] = own.train_step(own.put(self.kept[prepared]))

    def train_steps(self, session: int, steps: list[tuple[int, int, bool]]) -> None:
        own = self.kept[session]
        for number, prepared, reset in steps:
            if reset:
                own.reset_state()
            self.kept[number] = own.train_step(own.put(self.kept[prepared]))

    def gradients(self, session: int, prepared: int) -> None:
        own = self.kept[session]
        own.gradients(own.put(self.kept[prepared]))

    def reset_state(self, session: int) -> None:
        self.kept[session].reset_state()

    def fetch(self, session: int, loss: int) -> None:
        self.kept[session].fetch(self.kept[loss])

    def wait(self, session: int) -> None:
        self.kept[session].wait()
        self.reply()

    def digest(self, session: int) -> None:
        self.reply(ranks.digest(self.kept[session]))

    def device_memory(self) -> None:
        self.reply(self.latest.device_memory())

    def figure(self, name: str) -> None:
        self.reply(ranks.FIGURES[name]())

    def free_address(self, host: str) -> None:
        self.reply(*ranks.free_addresses(1, host=host))

    def taken(self, of_cores: list[int]) -> None:
        self.reply(disturbance.taken(of_cores))


def main() -> None:
    """Ends by `os._exit`: no framework need be taken down, and some would wait for the other ranks."""
    asked, told = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a library prints goes into the log
    _end_with_parent(asked)
    os.write(told.fileno(), ranks.READY)
    try:
        start: Start = asked.recv()  # from rank 0, which started this process, as all that follows
        hide(start.hidden)
        backend = backends.load(start.backend)
        told.send(Reply(About(dict(backend.versions()), ranks.installed() if start.elsewhere else None)))
        Follower(asked, told, backend).run()
    except (EOFError, ConnectionError):
        pass  # rank 0 is gone
    except Exception as error:
        told.send(Failure(*classify(error)))
    os._exit(0)


def _end_with_parent(asked: Connection) -> None:
    """Has this process end when rank 0 does, also while native code waits for it.

    The kernel sees to it where rank 0 is its parent, on this machine; else a thread that sees the pipe close.
    """
    threading.Thread(target=_end_with_pipe, args=(asked,), daemon=True).start()
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before
            os._exit(0)


def _end_with_pipe(asked: Connection) -> None:
    closed = select.poll()
    closed.register(asked.fileno(), getattr(select, "POLLRDHUP", 0))  # and POLLHUP, which need not be asked for
    closed.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
