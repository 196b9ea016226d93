"""The driver of cards that do not exist: pynvml with answers of its own."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest


class Driver:
    """Answers each question from a list, the last answer again and again; None is an error, as an older card gives it."""

    def __init__(self, answers: dict[str, Sequence[Any]], uuids: Sequence[str]) -> None:
        self.answers = {question: list(values) for question, values in answers.items()}
        self.uuids = uuids  # of the cards, in NVML's order
        self.asked_for: list[object] = []

    def answer(self, question: str) -> Callable[..., Any]:
        def reply(card: Any, *arguments: Any) -> Any:
            values = self.answers[question]
            value = values.pop(0) if len(values) > 1 else values[0]
            if value is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value(*arguments) if callable(value) else value

        return reply

    def by_index(self, index: int) -> object:
        self.asked_for.append(index)
        if index >= len(self.uuids):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return SimpleNamespace(identity=index)

    def by_uuid(self, uuid: str) -> object:
        self.asked_for.append(uuid)
        return SimpleNamespace(identity=uuid)

    def uuid(self, card: Any) -> str:
        return self.uuids[card.identity] if isinstance(card.identity, int) else card.identity


def install(monkeypatch: pytest.MonkeyPatch, *, uuids: Sequence[str] = ("GPU-0",), **answers: Sequence[Any]) -> Driver:
    """Keyword: NVML's question; its value: the answers, each a value or a function of what was asked beside the card."""
    driver = Driver(answers, uuids)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(uuids))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", driver.by_index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", driver.by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", driver.uuid)
    for question in answers:
        monkeypatch.setattr(pynvml, question, driver.answer(question))
    return driver


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver."""

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
