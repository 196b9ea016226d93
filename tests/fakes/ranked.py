"""A backend of several processes without a framework: the reference on each rank's rows, and sums over a socket.

Rank 0 listens at its address and adds up what the others send. A test asks for a misbehaviour by `partial(open_session,
misbehaviour=...)` in a module of its own (the fixture `ranked` in tests/test_ranks.py): a fault of parity by its name in
FAULTS, or `<strike> in <place>`, which hits rank 1. What is timed is the task of tests/fakes/backend.py.
"""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import autograd.numpy as anp
import numpy as np
import psutil

from backends.api import Options, Settings
from bench.process import phases
from bench.worker import ranks
from tasks.spec import Array, Batch, Params, Task
from tests.fakes.backend import LATE, MisbehavingSession, versions

__all__ = ["open_session", "versions"]

FAULTS = (
    "divides by its own weights",
    "sees the rows of rank 0",
    "starts from other weights",
    "draws the masks of rank 0",
    "updates by its own gradient",
)
"""Faults of a rank above 0, or of all."""

SIGNALS: Mapping[str, int] = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}

_WIRES: dict[str, "Wire"] = {}


class Wire:
    """Sums over all ranks: the others send to rank 0, and get the sum."""

    def __init__(self, options: Options) -> None:
        host, _, port = options.addresses[0].rpartition(":")
        self.rank, self.sockets = options.rank, []
        if self.rank == 0:
            with socket.create_server((host, int(port))) as server:
                self.sockets = [server.accept()[0] for _ in range(options.processes - 1)]
            return
        for _ in itertools.repeat(None, 200):
            try:
                self.sockets = [socket.create_connection((host, int(port)))]
                return
            except ConnectionRefusedError:  # rank 0 is not there yet
                time.sleep(0.05)
        raise ConnectionRefusedError("rank 0 does not listen")

    def summed(self, value: Array) -> Array:
        """The same in every rank, bit by bit."""
        if self.rank:
            self.sockets[0].sendall(value.tobytes())
            return self._received(self.sockets[0], value)
        total = value + sum(self._received(one, value) for one in self.sockets)
        for one in self.sockets:
            one.sendall(total.tobytes())
        return cast(Array, total)

    @staticmethod
    def _received(one: socket.socket, like: Array) -> Array:
        data = b""
        while len(data) < like.nbytes:
            part = one.recv(like.nbytes - len(data))
            if not part:
                raise ConnectionError("the other rank is gone")
            data += part
        return np.frombuffer(data, like.dtype).reshape(like.shape)


def open_session(
    task: Task, params: Params, options: Options, *, misbehaviour: str = "ok"
) -> "RankedSession | MisbehavingSession":
    """A session of a rank that misbehaves as named; of one process, one that does not."""
    if options.processes == 1:
        return MisbehavingSession(task, params, options, "ok")
    what, _, place = misbehaviour.partition(" in ")
    if options.rank == 0 and place in ("its turn", "its sleep"):
        _strike_around_a_turn(SIGNALS[what], before=place == "its sleep")
    if options.rank == 0 and misbehaviour == "sees the rows of rank 0":
        shares_of = ranks.shares_of
        ranks.shares_of = lambda batch, processes: [shares_of(batch, processes)[0]] * processes
    if options.rank and misbehaviour == "starts from other weights":
        params = {name: value + np.float32(1e-3) for name, value in params.items()}
    if options.addresses[0] not in _WIRES:
        _WIRES[options.addresses[0]] = Wire(options)
    return RankedSession(task, params, options, misbehaviour, _WIRES[options.addresses[0]])


def _strike_around_a_turn(number: int, *, before: bool) -> None:
    """Sends a signal to rank 1 when rank 0 is about to wait for its second turn, or has it."""
    wait, waits = phases.next_word, itertools.count()

    def strike() -> None:
        (other,) = psutil.Process().children()
        os.kill(other.pid, number)

    def next_word(told: str) -> bytes:
        struck = next(waits) == 1
        if struck and before:
            strike()
        word = wait(told)
        if struck and not before:
            strike()
        return word

    phases.next_word = next_word


class RankedSession(MisbehavingSession):
    """The reference, of which each rank has the rows that it is given."""

    def __init__(self, task: Task, params: Params, options: Options, misbehaviour: str, wire: Wire) -> None:
        super().__init__(task, params, options, "ok")
        self.strike, _, self.place = misbehaviour.partition(" in ")
        self.fault, self.wire, self.total = misbehaviour, wire, None
        seed = options.seed if misbehaviour == "draws the masks of rank 0" else options.masks_seed
        self.drop_in_training = _dropout(seed)

    def mean_loss(self, losses: Any, weights: Array) -> Any:
        total = self.total or anp.sum(weights)
        if self.fault == "divides by its own weights" and self.total:
            total = anp.maximum(anp.sum(weights), 1e-9) * self.options.processes
        return anp.sum(losses * weights) / total

    def loss_and_gradients(self, batch: Batch, state: Any) -> tuple[float, dict[str, Array], Any]:
        self.total = batch.total
        loss, gradients, state = super().loss_and_gradients(batch, state)
        self.total = None
        if batch.total is None:
            return loss, gradients, state
        flat = self.wire.summed(np.concatenate([[loss], *(gradients[name].ravel() for name in sorted(gradients))]))
        if self.fault == "updates by its own gradient" and self.options.rank:
            return float(flat[0]), gradients, state
        return float(flat[0]), _unflattened(flat[1:], gradients), state

    def train_step(self, batch: Batch) -> float:
        loss = super().train_step(batch)
        if self.options.rank == 1 and self.updates == LATE and self.place == "warm-up":
            STRIKES[self.strike]()
        return loss

    def settings(self) -> Settings:
        return {**super().settings(), "processes": self.options.processes}  # type: ignore[typeddict-unknown-key]


def _dropout(seed: int) -> Any:
    from backends.reference.models import dropout

    return dropout(np.random.default_rng(seed))


def _unflattened(flat: Array, like: Params) -> dict[str, Array]:
    names: Sequence[str] = sorted(like)
    ends = np.cumsum([like[name].size for name in names])[:-1]
    parts = zip(names, np.split(flat, ends), strict=True)
    return {name: part.reshape(like[name].shape) for name, part in parts}


def _fail() -> None:
    raise RuntimeError("the layer is broken in rank 1")


STRIKES: Mapping[str, Callable[[], object]] = {
    "raises": _fail,
    "runs out of memory": lambda: (_ for _ in ()).throw(MemoryError("Unable to allocate 3 TiB")),
    "exits": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
