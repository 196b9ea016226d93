"""The mode `trim` of every backend: batches are cut to their longest sentence before they are prepared.

What a loader of the framework would do: a step then computes less padding. The cut lengths are the task's, so that they are the
same in every backend, and few: a framework that compiles does so once for each. The reference's batches stay whole, and the
ladder of parity shows that what is cut changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from backends import TRIM
from backends.api import DEFAULT_MODE, Backend, Options, Session, Settings, Unsupported, without
from tasks.spec import Array, Batch, Params, Task


class Trimming:
    """A backend that has the mode `trim` beside its own."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def versions(self) -> Mapping[str, str]:
        """The backend's."""
        return self.backend.versions()

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """The backend's session; where the mode says so, with shorter batches. Unsupported for a task without padding."""
        mode = without(options.mode, TRIM)
        if mode == options.mode:
            return self.backend.open_session(task, params, options)
        trim: Callable[[Batch], Batch] | None = getattr(task, "trimmed", None)
        if trim is None:
            raise Unsupported(f"{TRIM}: the batches of {task.name} have no padding to cut")
        return cast(Session, Trimmed(self.backend.open_session(task, params, replace(options, mode=mode)), trim))


class Trimmed:
    """A session that prepares shorter batches; everything else is passed on."""

    def __init__(self, session: Session, trim: Callable[[Batch], Batch]) -> None:
        self.session, self.trim = session, trim
        self.shapes: set[tuple[int, ...]] = set()  # of the inputs that were prepared

    def prepare(self, batch: Batch) -> Any:
        """What the session makes of the cut batch."""
        cut = self.trim(batch)
        self.shapes |= {value.shape for value in cut.inputs.values()}
        return self.session.prepare(cut)

    def loader(self, *_: Any, **__: Any) -> Any:
        """Unsupported: a framework's own loader hands over whole batches."""
        raise Unsupported(f"{TRIM}: the frameworks' own loaders hand over batches that are not cut")

    def predict(self, inputs: Mapping[str, Array]) -> Array:
        """The session's, of cut inputs."""
        whole = Batch(inputs, np.empty(0), np.empty(0))
        return self.session.predict(self.trim(whole).inputs)

    def settings(self) -> Settings:
        """The session's, whose mode has `trim` as its last part, with the shapes of what it was given."""
        settings = self.session.settings()
        own = settings["mode"]
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in sorted(self.shapes))
        made = {**settings, "mode": TRIM if own == DEFAULT_MODE else f"{own}+{TRIM}", "inputs": shapes or None}
        return cast(Settings, made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)
