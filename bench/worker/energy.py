"""The energy of a window, from the hardware's own counters.

Sources: on a GPU, the card's total since its driver was loaded (NVML, nvmlDeviceGetTotalEnergyConsumption, millijoules, Volta
and newer); on a CPU, the sum over all packages of RAPL's counters (Linux powercap, energy_uj, microjoules, which start again at
max_energy_range_uj). Both count the whole card or package, idle power and other processes included, and a GPU's figure has no
CPU in it. NVML refreshes its counter several times a second, so a window of less than MIN_WINDOW_S has no figure. Nothing is
estimated: without a counter the figure is None, with the reason.
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.machine import nvml
from bench.records.record import Energy

MIN_WINDOW_S = 10.0

POWERCAP = Path("/sys/class/powercap")

NO_CARD = "no NVIDIA driver answers"
NO_CARD_COUNTER = "the card has no energy counter"
NO_RAPL = "the processor or the kernel has no energy counter (RAPL)"
RAPL_LOCKED = "the energy counter (RAPL) exists, but only root may read it"

Joules = dict[str, float]
"""Counter -> its value."""


class CounterMissing(RuntimeError):
    """There is no counter to read, and the message says why."""


class Meter:
    """A context around the window, or each of its parts; after each, `energy` is what the counters say about all so far."""

    def __init__(
        self,
        *,
        device: str,
        powercap: Path = POWERCAP,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.source = "NVML, the whole card" if device == "gpu" else "RAPL, all processor packages"
        self._read = read_card if device == "gpu" else lambda: read_packages(powercap)
        self._ranges: Mapping[str, float] = {} if device == "gpu" else ranges(powercap)
        self._clock = clock
        self._opened: Joules = {}
        self._seconds = self._joules = 0.0  # of the parts that are over
        self._lost = False  # a counter started again at nobody knows what
        self.missing: str | None = None  # why there is nothing to read
        self._reading()
        self.energy = Energy(None, reason=self.missing or "the window did not end")

    def __enter__(self) -> "Meter":
        self._opened, self._start = self._reading(), self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds += self._clock() - self._start
        self._count(self._reading())
        self.energy = self._so_far()

    def _reading(self) -> Joules:
        try:
            return self._read()
        except CounterMissing as error:
            self.missing = str(error)
            return {}

    def _count(self, closed: Joules) -> None:
        for name, opened in self._opened.items():
            if name not in closed:
                continue
            self._joules += closed[name] - opened
            if closed[name] < opened:  # it has started again; once, or the part was hours
                self._lost = self._lost or name not in self._ranges
                self._joules += self._ranges.get(name, 0.0)

    def _so_far(self) -> Energy:
        if self.missing:
            return Energy(None, reason=self.missing)
        if self._seconds < MIN_WINDOW_S:
            why = f"the window lasted {self._seconds:.1f} s, and the counters are too coarse for less than {MIN_WINDOW_S:g} s"
            return Energy(None, reason=why)
        if self._lost:
            return Energy(None, reason="the counter restarted during the window")
        if self._joules <= 0:
            return Energy(None, reason="the counter did not move")
        return Energy(self._joules, source=self.source)


def read_card() -> Joules:
    """The first visible card's counter; CounterMissing where there is none."""
    card = nvml.card()
    if card is None:
        raise CounterMissing(NO_CARD)
    millijoules = nvml.ask(card, "nvmlDeviceGetTotalEnergyConsumption")
    if millijoules is None:
        raise CounterMissing(NO_CARD_COUNTER)
    return {"card": millijoules / 1e3}


def read_packages(powercap: Path = POWERCAP) -> Joules:
    """Every processor package's counter; CounterMissing where there is none that may be read."""
    try:
        found = {zone.name: int((zone / "energy_uj").read_text(encoding="ascii")) / 1e6 for zone in _packages(powercap)}
    except PermissionError:
        raise CounterMissing(RAPL_LOCKED) from None
    except (OSError, ValueError):
        found = {}
    if not found:
        raise CounterMissing(NO_RAPL)
    return found


def ranges(powercap: Path = POWERCAP) -> Mapping[str, float]:
    """Package -> the joules at which its counter starts again at 0."""
    found = {}
    for zone in _packages(powercap):
        try:
            found[zone.name] = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
        except (OSError, ValueError):
            continue
    return found


def _packages(powercap: Path) -> list[Path]:
    """RAPL's zones that are a package; those inside one (intel-rapl:0:0) and the whole platform (psys) count it again."""
    zones = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # the kernel's name on AMD's processors too
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if re.fullmatch(r"intel-rapl:\d+", zone.name) and name.startswith("package"):
            zones.append(zone)
    return zones
