"""Modes in which one call takes several training steps: an update waits until there are enough of them for a call.

What a loop of the framework would do that hands over several batches at once. The harness goes on taking one step after the
other. Whoever asks for a result, a loss, the parameters, an evaluation, the end of a block, has the steps that still wait taken
one by one before: the results are those of as many single steps, and the ladder of parity climbs both programs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from backends.api import Backend, Options, Session, Unsupported
from tasks.spec import Params, Task


class Grouping:
    """A backend whose sessions take several steps in one call where their mode says so."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def versions(self) -> Mapping[str, str]:
        """The backend's."""
        return self.backend.versions()

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """The backend's session; Unsupported for a mode of several steps together with batches of several lengths."""
        session = self.backend.open_session(task, params, options)
        if steps_per_call(session) == 1:
            return session
        if hasattr(session, "trim"):
            raise Unsupported(f"{options.mode}: batches of several lengths do not go into one call")
        return cast(Session, Grouped(session))


def steps_per_call(session: Session) -> int:
    """How many training steps a session takes in one call."""
    return int(getattr(session, "steps_per_call", 1))


@dataclass
class Loss:
    """A handle of the loss of one step."""

    of_call: Any = None  # the session's own handle, once the step was taken
    place: int | None = None  # among the losses of its call; None of a step that was taken alone


class Grouped:
    """A session that takes its training steps together; everything else is passed on once all of them are taken."""

    def __init__(self, session: Any) -> None:
        self.session, self.steps_per_call = session, steps_per_call(session)
        self._waiting: list[tuple[Any, bool, Loss]] = []  # a batch, whether the state is zero before it, its loss
        self._reset = False

    # These take no step.

    def prepare(self, batch: Any) -> Any:
        """The session's."""
        return self.session.prepare(batch)

    def put(self, prepared: Any) -> Any:
        """The session's."""
        return self.session.put(prepared)

    def reset_state(self) -> None:
        """Before the next step."""
        self._reset = True

    def train_step(self, batch: Any) -> Loss:
        """Puts a step with the others; the last of a call has all of them taken."""
        loss = Loss()
        self._waiting.append((batch, self._reset, loss))
        self._reset = False
        if len(self._waiting) == self.steps_per_call:
            waiting, self._waiting = self._waiting, []
            batches, resets, losses = zip(*waiting, strict=True)
            of_call = self.session.train_steps(batches, resets)
            for place, one in enumerate(losses):
                one.of_call, one.place = of_call, place
        return loss

    def fetch(self, value: Any) -> Any:
        """A loss of a step, or what the session fetches."""
        if not isinstance(value, Loss):
            return self.session.fetch(value)
        if value.of_call is None:
            self._take_waiting()
        found = self.session.fetch(value.of_call)
        return found if value.place is None else found[value.place]

    def __getattr__(self, name: str) -> Any:
        self._take_waiting()
        return getattr(self.session, name)

    def _take_waiting(self) -> None:
        """One by one the steps that are too few for a call."""
        waiting, self._waiting = self._waiting, []
        for batch, reset, loss in waiting:
            if reset:
                self.session.reset_state()
            loss.of_call = self.session.train_step(batch)
        if self._reset:
            self._reset = False
            self.session.reset_state()
