"""One arm over several processes: this worker is rank 0, and the others make the same calls in the same order.

Rank 0 starts them as its own children, in its own process group, so that whatever ends it ends them; those on another machine
through a command that reaches it (bench/machine/hosts.py), and they end when that does. Each opens a session of
the same backend with its rank in `Options`; how they exchange gradients is the framework's business. A call of rank 0's session
is sent to them over a pipe before rank 0 makes it itself: a batch once, by `prepare`, as the rows of each rank, and a step as
a few bytes that name the batch, or all steps of a timed block together. Between two calls they sleep in a read, and so they do
when another arm has its turn.

The batch is the task's, whatever the number of processes: its rows are split into equal parts, in their order. Where they do
not divide, copies of the last row with weight 0 fill up the last parts. What trains nothing (evaluation, predictions, the
probe, settings) rank 0 does alone, with its own copy of the parameters and whole batches.

What is sent is pickled: tasks, options and arrays of a process to those that it started itself, over their standard input and
output, which nobody else can open. What a rank answers is unpickled too: one on another machine runs as the same user, whom
ssh or Slurm let in there, and its machine is trusted as this one is. What a shell prints there at first is read past (READY).

A rank that fails says why and ends; a thread of rank 0 hears it, or sees how the rank ended, and makes that this process's
outcome. It need not wait for a collective operation that will never end.
"""

import contextlib
import errno
import itertools
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn, cast

import msgspec
import numpy as np
import psutil

from backends.api import Backend, DeviceMemory, Options, Session, Settings, Unsupported
from bench.machine import cores, describe, hosts
from bench.records.record import Bytes, Machine, Outcome, Rank, Status
from bench.records.source import harness_hash
from bench.worker import disturbance, memory
from tasks.spec import Array, Batch, Params, Task, hash_arrays

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Below those that Linux gives to outgoing connections (ip_local_port_range), which come and go meanwhile."""
SETTLE_S = 3.0  # after an error: where another rank failed first, that is what is told
READY = b"\0framework-bench\0"
"""The first that a rank writes: what comes before was printed by the shell of its machine."""
ENDING_S = 5.0  # that a rank whose connection is closed may take to end


class Start(NamedTuple):
    """The first that a rank is told."""

    backend: str
    hidden: Sequence[str]
    rank: int
    processes: int
    elsewhere: bool = False  # on another machine than rank 0


class About(NamedTuple):
    """The first that a rank tells."""

    versions: Mapping[str, str]
    installation: tuple[str, Machine] | None = None  # source of framework-bench, and machine, where that is another one


class Failure(NamedTuple):
    """The last that a rank tells."""

    status: Status
    reason: str


class Reply(NamedTuple):
    """A rank's answer to a call that has one."""

    value: Any


@dataclass(frozen=True)
class Trained:
    """What of a task the other ranks are given: they see no data but their rows."""

    name: str
    model: Any
    optimizer: Any


GiveUp = Callable[[Outcome], NoReturn]


def _raise(outcome: Outcome) -> NoReturn:
    raise RuntimeError(outcome.reason)


@dataclass
class Ranks:
    """The processes of an arm, this one among them; of an arm of one process there is nothing to start."""

    processes: int = 1
    backend: str = ""
    hidden: Sequence[str] = ()
    shares: Sequence[Sequence[int]] = ()  # the cores of each rank
    hosts: Sequence[str] = ()  # the machine of each rank, where they are on several
    remote: str = ""  # the command that reaches another one (bench/machine/hosts.py)
    give_up: GiveUp = _raise  # ends this process with an outcome; called from another thread
    _others: list["_Other"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = itertools.count()
        self.dropped: list[int] = []  # numbers of what is no longer kept here
        self.addresses: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """On how many machines they are."""
        return len(set(self.hosts)) or 1

    @property
    def cores(self) -> list[int]:
        """Those of all ranks of a machine, the same on each."""
        return sorted({core for share in self.shares for core in share}) or cores.usable()

    def start(self, *, addresses: Sequence[str] = ()) -> None:
        """Starts the other ranks; where no `addresses` are given, they are found when the first session is opened."""
        self.addresses = tuple(addresses)
        for rank in range(1, self.processes):
            share = self.shares[rank] if self.shares else ()
            elsewhere = bool(self.hosts) and self.hosts[rank] != self.hosts[0]
            start = Start(self.backend, self.hidden, rank, self.processes, elsewhere)
            command = [sys.executable, "-P", "-m"]
            command += ["bench.machine.cores", ",".join(map(str, share))] if share else []
            command += ["bench.worker.rank"]
            if elsewhere:
                command = hosts.command(self.remote, self.hosts[rank], command, os.environ)
            self._others.append(_Other(start, command, self._failed))
        hosts.forget_ways()

    def wrap(self, backend: Backend) -> Backend:
        """A backend whose sessions train in all ranks, once these have imported the framework in the same versions."""
        if not self._others:
            return backend
        installation = installed() if self.nodes > 1 else None
        for rank, about in enumerate(self.replies(), start=1):
            versions = about.versions
            if installation and about.installation and (what := _apart(installation, about.installation)):
                raise RuntimeError(f"rank {rank} is on a machine whose {what} differs from rank 0's")
            if apart := {name for name, own in backend.versions().items() if versions.get(name) != own}:
                name = sorted(apart)[0]
                own, other = backend.versions()[name], versions.get(name)
                raise RuntimeError(f"rank {rank} has {name} {other}, and rank 0 has {own}")
        return Ranking(backend, self)

    def tell(self, call: str, *arguments: Any) -> None:
        """Sends a call to all other ranks."""
        self.tell_each(call, lambda rank: arguments)

    def tell_each(self, call: str, arguments: Callable[[int], tuple[Any, ...]]) -> None:
        """The same with arguments that depend on the rank."""
        dropped, self.dropped = self.dropped, []
        for rank, other in enumerate(self._others, start=1):
            other.call(call, *arguments(rank), dropped=dropped)

    def replies(self) -> list[Any]:
        """The answers of the other ranks to the latest call that has one."""
        return [other.replies.get() for other in self._others]

    def free_addresses(self) -> tuple[str, ...]:
        """Where the framework of each rank may listen: on the loopback interface, or on each rank's machine by its name."""
        if self.nodes == 1:
            return tuple(free_addresses(self.processes))
        self.tell_each("free_address", lambda rank: (self.hosts[rank],))
        return (*free_addresses(1, host=self.hosts[0]), *self.replies())

    def every(self, figure: str) -> list[Any]:
        """One of FIGURES in each rank, rank 0 first."""
        self.tell("figure", figure)
        return [FIGURES[figure](), *self.replies()]

    def cpu_s(self) -> list[float]:
        """Processor time of each rank so far, all its threads."""
        for other in self._others:
            if other.start.elsewhere:
                other.call("figure", "cpu_s")
        return [time.process_time(), *(other.cpu_s() for other in self._others)]

    def taken_elsewhere(self) -> list[disturbance.Taken]:
        """What the kernel counted on each of the other machines (bench/worker/disturbance.py)."""
        others = list({self.hosts[one.start.rank]: one for one in self._others if one.start.elsewhere}.values())
        for other in others:
            other.call("taken", self.cores)
        return [other.replies.get() for other in others]

    @property
    def granted(self) -> int:
        """How many cores the ranks may keep busy together."""
        return min(self.nodes * len(self.cores), self.processes * cores.granted()) if self._others else cores.granted()

    def figures(self, session: Session, *, cpu_s: Sequence[float], host_peaks: Sequence[Bytes]) -> list[Rank]:
        """Those of each rank; none where there is one. What is not given is asked for, or was not measured."""
        if not self._others:
            return []
        self.tell("device_memory")
        devices = [session.device_memory(), *self.replies()]
        used: Sequence[float | None] = cpu_s or [None] * self.processes
        peaks = host_peaks or self.every("host_peak")
        return [
            Rank(*figures[:2], memory.peaks_of(figures[2])[0], figures[3])
            for figures in zip(self.every("cores"), peaks, devices, used, strict=True)
        ]

    def guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """The call in this rank. Its error counts only where no other rank failed before it."""
        try:
            return call(*arguments)
        except Unsupported:
            raise  # each rank says so by itself
        except Exception:
            if self._others:
                time.sleep(SETTLE_S)
            raise

    def end(self) -> None:
        """Lets the other ranks end."""
        for other in self._others:
            other.end()

    def _failed(self, rank: int, failure: Failure) -> None:
        if failure.status == "unsupported":
            time.sleep(SETTLE_S)  # rank 0 says so too, in its own name
        self.give_up(Outcome(status=failure.status, reason=f"rank {rank} of {self.processes}: {failure.reason}"))


class _Other:
    """Another rank, as rank 0 sees it."""

    def __init__(self, start: Start, command: Sequence[str], failed: Callable[[int, Failure], None]) -> None:
        from multiprocessing.connection import Connection  # which an arm of one process does without

        self.start, self._failed = start, failed
        self.replies = queue.SimpleQueue[Any]()
        self._ending = False
        (read, told), (asked, written) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(command, stdin=read, stdout=written)
        for theirs in (read, written):
            os.close(theirs)
        self._calls, self._answers = Connection(told, readable=False), Connection(asked, writable=False)
        self._clock = None if start.elsewhere else _cpu_clock(self._process.pid)
        # Before anything is sent: it tells of one that is gone already.
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(start)

    def call(self, name: str, *arguments: Any, dropped: Sequence[int] = ()) -> None:
        """Has it make a call, and forget what is no longer kept."""
        self._send((name, arguments, dropped))

    def _send(self, message: Any) -> None:
        try:
            self._calls.send(message)
        except OSError:  # it is gone, and the thread that listens tells how
            time.sleep(SETTLE_S + ENDING_S)
            raise

    def cpu_s(self) -> float:
        """Read here, or what one on another machine answers, which was asked."""
        return float(self._clock() if self._clock else self.replies.get())

    def end(self) -> None:
        self._ending = True
        self._process.kill()  # there is nothing left to be done in it, and no framework need be taken down
        self._process.wait()

    def _listen(self) -> None:
        failure = None
        try:
            self._read_past(READY)
            while failure is None:
                told = self._answers.recv()
                if isinstance(told, Failure):
                    failure = told
                else:
                    self.replies.put(told.value)
        except (EOFError, OSError):
            failure = self._ended()
        if not self._ending:
            self._failed(self.start.rank, failure)

    def _read_past(self, mark: bytes) -> None:
        seen = b""
        while not seen.endswith(mark):
            if not (byte := os.read(self._answers.fileno(), 1)):
                raise EOFError
            seen = (seen + byte)[-len(mark) :]

    def _ended(self) -> Failure:
        try:
            code = self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            return Failure("failed", "it closed its connection")
        if code >= 0:
            return Failure("failed", f"exited with code {code}")
        name = signal.Signals(-code).name
        hint = " (possibly out of memory, or killed manually)" if name == "SIGKILL" else ""
        return Failure("killed", f"ended by {name}{hint}")


class Ranking:
    """A backend whose sessions train in several processes."""

    def __init__(self, backend: Backend, ranks: Ranks) -> None:
        self.backend, self.ranks = backend, ranks
        self._opened = False  # a session, whose framework then listens at the rank's address

    def versions(self) -> Mapping[str, str]:
        """The backend's."""
        return self.backend.versions()

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """A session in each rank."""
        ranks, number = self.ranks, next(self.ranks.numbers)
        if not self._opened:
            ranks.addresses = ranks.addresses or ranks.free_addresses()
            check_free(ranks.addresses[0], rank=0)
            self._opened = True
        own = replace(options, processes=ranks.processes, addresses=ranks.addresses)
        trained = Trained(task.name, task.model, task.optimizer)
        ranks.tell_each("open", lambda rank: (number, trained, params, replace(own, rank=rank)))
        session = ranks.guarded(self.backend.open_session, task, params, own)
        ranks.replies()
        return cast(Session, Ranked(session, ranks, number))


class Numbered:
    """What the other ranks know by its number, and keep for as long as it is kept here."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.number = ranks, next(ranks.numbers)

    def __del__(self) -> None:
        self._ranks.dropped.append(self.number)


class Prepared(Numbered):
    """A batch that every rank has prepared its rows of."""

    def __init__(self, ranks: Ranks, batch: Batch) -> None:
        super().__init__(ranks)
        self.batch = batch  # the whole one
        self.own: Any = None


class Loss(Numbered):
    """The loss of a step that every rank has taken."""

    own: Any = None


class Ranked(Numbered):
    """Rank 0's session, of a model that all ranks train."""

    def __init__(self, session: Session, ranks: Ranks, number: int) -> None:
        self._session, self._ranks, self.number = session, ranks, number
        self._announced: deque[tuple[Loss, Prepared]] = deque()

    # In every rank.

    def prepare(self, batch: Batch) -> Prepared:
        """Each rank's own rows, in that rank."""
        prepared, parts = Prepared(self._ranks, batch), shares_of(batch, self._ranks.processes)
        self._ranks.tell_each("prepare", lambda rank: (prepared.number, self.number, parts[rank]))
        prepared.own = self._ranks.guarded(self._session.prepare, parts[0])
        return prepared

    def put(self, prepared: Prepared) -> Prepared:
        """Nothing yet: each rank does it in its step, or in what else needs the batch."""
        return prepared

    def announce(self, coming: Iterable[tuple[Prepared, bool]]) -> None:
        """The batches of the next steps, and whether the carried state is zero before each.

        The other ranks take them without waiting for more, so that in a timed block no step begins with a message.
        """
        steps = [(Loss(self._ranks), prepared, reset) for prepared, reset in coming]
        numbers = [(loss.number, prepared.number, reset) for loss, prepared, reset in steps]
        self._ranks.tell("train_steps", self.number, numbers)
        self._announced.extend((loss, prepared) for loss, prepared, _ in steps)

    def train_step(self, prepared: Prepared) -> Loss:
        if self._announced:
            loss, expected = self._announced.popleft()
            if expected is not prepared:
                raise RuntimeError("a step on another batch than was announced to the other ranks")
        else:
            loss = Loss(self._ranks)
            self._ranks.tell("train_step", loss.number, self.number, prepared.number)
        loss.own = self._ranks.guarded(self._stepped, prepared.own)
        return loss

    def gradients(self, prepared: Prepared) -> Params:
        self._ranks.tell("gradients", self.number, prepared.number)
        found: Params = self._ranks.guarded(self._session.gradients, self._session.put(prepared.own))
        return found

    def reset_state(self) -> None:
        if not self._announced:
            self._ranks.tell("reset_state", self.number)
        self._session.reset_state()

    def fetch(self, value: Any) -> Array:
        """A loss, which all ranks make together, or what rank 0 has alone."""
        if isinstance(value, Loss):
            self._ranks.tell("fetch", self.number, value.number)
            value = value.own
        found: Array = self._ranks.guarded(self._session.fetch, value)
        return found

    def wait(self) -> None:
        """Until every rank is done."""
        self._ranks.tell("wait", self.number)
        self._ranks.guarded(self._session.wait)
        self._ranks.replies()

    def replicas_apart(self) -> list[int]:
        """The ranks whose parameters are not rank 0's, bit by bit."""
        self._ranks.tell("digest", self.number)
        own = digest(self._session)
        return [rank for rank, found in enumerate(self._ranks.replies(), start=1) if found != own]

    # In rank 0 alone.

    def eval_step(self, prepared: Prepared) -> tuple[Any, Any]:
        return self._session.eval_step(self._session.put(self._session.prepare(prepared.batch)))

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        return self._session.predict(inputs)

    def params(self) -> Params:
        return self._session.params()

    def matmul(self, left: Array, right: Array, *, times: int) -> Any:
        return self._session.matmul(left, right, times=times)

    def compilations(self) -> int | None:
        return self._session.compilations()

    def device_memory(self) -> DeviceMemory | None:
        return self._session.device_memory()

    def settings(self) -> Settings:
        return self._session.settings()

    def exchange_s(self) -> float | None:
        tell: Callable[[], float | None] | None = getattr(self._session, "exchange_s", None)
        return tell() if tell is not None else None

    def _stepped(self, own: Any) -> Any:
        return self._session.train_step(self._session.put(own))


FIGURES: Mapping[str, Callable[[], Any]] = {
    "cores": cores.in_force, "host_now": memory.host_now, "host_peak": memory.host_peak,
    "reset_host_peak": memory.reset_host_peak, "cpu_s": time.process_time,
}  # fmt: skip
"""What a rank tells of itself."""


def replicas_apart(session: Session) -> list[int]:
    """The ranks whose parameters are not rank 0's; none of a session in one process."""
    apart: Callable[[], list[int]] = getattr(session, "replicas_apart", list)
    return apart()


def shares_of(batch: Batch, processes: int) -> list[Batch]:
    """The rows of each rank, with the weight of the whole batch; copies of the last one, of weight 0, fill up the last."""
    rows = len(batch.labels)
    each = -(-rows // processes)
    total = float(batch.weights.sum(dtype="float64"))
    parts = []
    for start in range(0, each * processes, each):
        places = np.minimum(np.arange(start, start + each), rows - 1)
        weights = batch.weights[places]
        weights[max(0, rows - start) :] = 0
        inputs = {name: value[places] for name, value in batch.inputs.items()}
        parts.append(batch._replace(inputs=inputs, labels=batch.labels[places], weights=weights, total=total))
    return parts


def installed() -> tuple[str, Machine]:
    """The source of framework-bench, and the machine."""
    return harness_hash(), describe.describe()


def _apart(one: tuple[str, Machine], other: tuple[str, Machine]) -> str:
    """What differs between two installations, in words; empty where nothing does."""
    if one[0] != other[0]:
        return "source of framework-bench"
    fields = zip(
        Machine.__struct_fields__, msgspec.structs.astuple(one[1]), msgspec.structs.astuple(other[1]), strict=True
    )
    return next(
        (f"{name.replace('_', ' ')} ({theirs}, not {ours})" for name, ours, theirs in fields if ours != theirs), ""
    )


def digest(session: Session) -> str:
    """Of a session's parameters."""
    params = session.params()
    return hash_arrays(*(params[name] for name in sorted(params)))


def free_addresses(count: int, *, host: str = LOOPBACK) -> list[str]:
    """So many addresses of this machine, by default on the loopback interface, whose ports nobody uses."""
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            try:
                stack.enter_context(socket.create_server((host, port)))
                found.append(f"{host}:{port}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise RuntimeError(
                        f"the name of this machine is not an address that it can listen on: {error.strerror}"
                    ) from error
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports from {PORTS.start} to {PORTS.stop - 1}")


def check_free(address: str, *, rank: int) -> None:
    """RuntimeError where somebody else listens at a rank's address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError as error:
        raise RuntimeError(f"port {port}, for rank {rank}: {error.strerror}") from error


def _cpu_clock(pid: int) -> Callable[[], float]:
    """What reads the processor time of another process, all its threads, in seconds.

    Linux makes the number of a process's clock from its id (MAKE_PROCESS_CPUCLOCK of linux/posix-timers.h), and that clock
    counts nanoseconds. Elsewhere psutil tells hundredths of a second.
    """
    number = (~pid << 3) | 2
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            time.clock_gettime(number)
            return lambda: time.clock_gettime(number)
    return lambda: sum(psutil.Process(pid).cpu_times()[:2])
