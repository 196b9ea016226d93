"""Several processes that train one model: torch.nn.parallel.DistributedDataParallel, over gloo on a CPU and NCCL on GPUs.

https://docs.pytorch.org/docs/stable/notes/ddp.html. The processes meet where `torchrun` would have them meet, in a store at
rank 0's address, and are told of it in the same variables.
"""

import os
import socket
from dataclasses import dataclass

import psutil
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from backends.api import Options


@dataclass(frozen=True)
class Part:
    """A loss of this process's rows; the mean over the processes is that of the batch, and takes all of them to make."""

    loss: torch.Tensor


def join(options: Options) -> None:
    """Meets the other processes, once in the life of this one."""
    if dist.is_initialized():
        return
    host, _, port = options.addresses[0].rpartition(":")
    os.environ |= {
        "MASTER_ADDR": host, "MASTER_PORT": port, "RANK": str(options.rank), "WORLD_SIZE": str(options.processes),
    }  # fmt: skip
    if interface := _interface(options.addresses[options.rank].rpartition(":")[0]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group("nccl" if options.device == "gpu" else "gloo", init_method="env://")


def _interface(host: str) -> str | None:
    """The network interface with an address of this machine; without it, gloo takes that of the machine's own name."""
    address = socket.gethostbyname(host)
    if address.startswith("127."):
        return "lo"
    found = ((name, one.address) for name, of_it in psutil.net_if_addrs().items() for one in of_it)
    return next((name for name, known in found if known == address), None)


def wrapped(net: torch.nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module, whose backward pass leaves in the parameters the mean of the processes' gradients."""
    made = DistributedDataParallel(net, device_ids=[device.index or 0] if device.type == "cuda" else None)
    made._set_ddp_runtime_logging_sample_rate(1)  # or the latest step that it tells of may be one of the first ten
    return made


def exchange_s(net: torch.nn.Module) -> float | None:
    """Seconds from the first bucket of gradients that was handed over to the last that was there, by torch's own account.

    Of one step, about the latest. The backward pass goes on meanwhile, and another process may be waited for.
    """
    told = net._get_ddp_logging_data() if isinstance(net, DistributedDataParallel) else {}
    nanoseconds = told.get("backward_comm_time", 0)
    return nanoseconds / 1e9 if nanoseconds else None


def mean(part: Part) -> torch.Tensor:
    """The loss of the whole batch; every process must ask for it."""
    loss = part.loss.clone()
    dist.all_reduce(loss)
    return loss / dist.get_world_size()


def settings(net: torch.nn.Module) -> dict[str, str | int]:
    """What is in force, by torch's own account."""
    return {"processes": dist.get_world_size(), "data parallel": f"{type(net).__name__}, {dist.get_backend()}"}
