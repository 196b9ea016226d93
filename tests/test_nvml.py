"""Which card is measured: one, and the same one for the driver's library and for every framework."""

from types import SimpleNamespace

import pytest

import backends
from bench.machine import describe, nvml
from bench.process import environment
from bench.records.record import Arm
from tests.fakes import nvml as fake_nvml

TWO = ("GPU-aa11", "GPU-bb22")


@pytest.mark.parametrize(
    ("visible", "uuid"),
    [
        (None, "GPU-aa11"),
        ("0", "GPU-aa11"),
        ("1", "GPU-bb22"),
        ("1,0", "GPU-bb22"),
        (" 1 ", "GPU-bb22"),
        ("GPU-bb22", "GPU-bb22"),
        ("GPU-b", "GPU-bb22"),  # CUDA takes the start of one
        ("MIG-1", "MIG-1"),
        # No card, as CUDA has it.
        ("", None),
        ("-1", None),
        ("-1,0", None),
        ("2", None),
        ("none", None),
        ("GPU-cc33", None),
        ("GPU-", None),  # it could be both
    ],
)
def test_the_card_is_the_first_that_is_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, uuid: str | None
) -> None:
    fake_nvml.install(monkeypatch, uuids=TWO, nvmlDeviceGetName=["A GPU"])
    monkeypatch.setattr("pynvml.nvmlSystemGetDriverVersion", lambda: "580.1")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.uuid() == uuid
    assert describe.gpu_and_driver() == (("A GPU", "580.1") if uuid else (None, None))


def test_a_process_that_is_told_the_uuid_finds_the_same_card(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.install(monkeypatch, uuids=TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    chosen = nvml.uuid()
    assert chosen is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert nvml.uuid() == chosen


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml.uninstall(monkeypatch)
    assert (nvml.card(), nvml.uuid(), nvml.processes(nvml.card())) == (None, None, None)


def test_the_processes_of_a_card_have_the_drivers_ids_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    running = [SimpleNamespace(pid=7, usedGpuMemory=100), SimpleNamespace(pid=8, usedGpuMemory=None)]
    fake_nvml.install(monkeypatch, nvmlDeviceGetComputeRunningProcesses=[running])
    assert nvml.processes(nvml.card()) == {7: 100, 8: None}


@pytest.mark.parametrize(("device", "visible"), [("gpu", "GPU-bb22"), ("cpu", "-1")])
def test_a_child_sees_the_card_that_is_described_and_no_other(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str
) -> None:
    fake_nvml.install(monkeypatch, uuids=TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    arm = Arm(name="jax", backend="jax", mode="default", device=device, precision="float32")
    assert environment.for_child(backends.find("jax"), arm)["CUDA_VISIBLE_DEVICES"] == visible
