"""A slow-down of known size for a self-test: a share of the steps is done twice and counted once.

Repeated work is as real as what it slows down, on every device and in every framework. A pause would not be: where the device
works through a queue of submitted steps (a GPU, JAX also on the CPU), a pause of the host hides behind them.
"""

from typing import Any, cast

from backends.api import Session


class Slowed:
    """A session whose `put` does a whole step of its own on a share of the batches; everything else is passed on."""

    announce = None  # the steps are not those that the loop knows of

    def __init__(self, session: Session, share: float) -> None:
        self.session, self.share = session, share
        self.owed = 0.0  # steps

    def put(self, prepared: Any) -> Any:
        """Copies a batch to the device, and, when a step is owed, first copies and trains on it once more."""
        self.owed += self.share
        while self.owed >= 1:
            self.owed -= 1
            self.session.train_step(self.session.put(prepared))
        return self.session.put(prepared)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def slowed(session: Session, share: float) -> Session:
    """The session with `share` more work per step; 0.1 does every tenth step twice."""
    return cast(Session, Slowed(session, share))
