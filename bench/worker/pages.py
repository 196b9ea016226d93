"""The mode `huge-pages` of every backend (backends/huge_pages.py), which a process has from its start: here it is read back."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from backends import huge_pages
from backends.api import DEFAULT_MODE, Backend, Options, Session, Settings, Unsupported, without
from tasks.spec import Params, Task


class Paging:
    """A backend that has the mode `huge-pages` beside its own."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def versions(self) -> Mapping[str, str]:
        """The backend's."""
        return self.backend.versions()

    def open_session(self, task: Task, params: Params, options: Options) -> Session:
        """The backend's session. Unsupported on a GPU, for several processes, and where the machine has no such pages."""
        mode = without(options.mode, huge_pages.MODE)
        if mode == options.mode:
            return self.backend.open_session(task, params, options)
        if options.device == "gpu":
            raise Unsupported(f"{huge_pages.MODE} is a mode of a CPU's memory; a GPU's would be as it is")
        if options.processes > 1:
            raise Unsupported(f"{huge_pages.MODE} does not go with several processes")
        if why := huge_pages.missing():
            raise Unsupported(why)
        return cast(Session, Paged(self.backend.open_session(task, params, replace(options, mode=mode))))


class Paged:
    """A session in a process that was started with huge pages; everything but its settings is passed on."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def settings(self) -> Settings:
        """The session's, whose mode has `huge-pages` as its last part if it is in force, and what malloc was told."""
        settings = self.session.settings()
        own = "" if settings["mode"] == DEFAULT_MODE else settings["mode"]
        on = huge_pages.MODE if huge_pages.in_force() else ""
        mode = "+".join(filter(None, [own, on])) or DEFAULT_MODE
        return cast(Settings, {**settings, "mode": mode, "malloc": os.environ.get(huge_pages.VARIABLE)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)
