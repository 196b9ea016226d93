"""The driver of a card that does not exist: pynvml with answers of its own."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest


class Driver:
    """Answers each question from a list, the last answer again and again; None is an error, as an older card gives it."""

    def __init__(self, answers: dict[str, Sequence[Any]]) -> None:
        self.answers = {question: list(values) for question, values in answers.items()}
        self.asked_for: list[object] = []

    def answer(self, question: str) -> Callable[[Any], Any]:
        def reply(card: Any) -> Any:
            values = self.answers[question]
            value = values.pop(0) if len(values) > 1 else values[0]
            if value is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value

        return reply

    def handle(self, identity: object) -> object:
        self.asked_for.append(identity)
        return SimpleNamespace(identity=identity)


def install(monkeypatch: pytest.MonkeyPatch, **answers: Sequence[Any]) -> Driver:
    """Keyword: NVML's question; its value: the answers."""
    driver = Driver(answers)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", driver.handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", driver.handle)
    for question in answers:
        monkeypatch.setattr(pynvml, question, driver.answer(question))
    return driver


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver."""

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
