"""What PyTorch's own profiler sees (https://docs.pytorch.org/docs/stable/profiler.html)."""

from collections.abc import Callable
from pathlib import Path

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from backends.operations import Operation, kind_of


def profiled(run: Callable[[], None], folder: Path, *, on_gpu: bool) -> list[Operation]:
    """The operations of a run, on a GPU its kernels; the trace is left in the folder, for chrome://tracing or Perfetto.

    Around a CPU's operations there are spans of autograd and of the optimizer: in those that are not ATen's, nothing runs.
    """
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        run()
    profiler.export_chrome_trace(str(folder / "trace.json.gz"))
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return [
        Operation(
            event.name, kind_of(event.name), event.time_range.start / 1e6, event.time_range.end / 1e6, str(event.thread)
        )
        for event in profiler.events() or ()
        if event.device_type == where and (on_gpu or event.name.startswith("aten::"))
    ]
