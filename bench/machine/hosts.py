"""The machines that an arm's processes are spread over (`--arm pytorch:processes=4,nodes=2`), and how one of them is reached.

FRAMEWORK_BENCH_HOSTS names them, separated by commas, first the one that framework-bench runs on; inside a job of Slurm they
are the job's. FRAMEWORK_BENCH_REMOTE is the command that runs a line of a shell on another machine: `{host}` stands in it for
the machine, and the line is added at its end. Without it, that is ssh, or inside a job of Slurm srun. What the line starts is
spoken to over its standard input and output, so that no port is open but the framework's own.

Names of machines are in no record: they belong to their owner.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence

HOSTS, REMOTE = "FRAMEWORK_BENCH_HOSTS", "FRAMEWORK_BENCH_REMOTE"
NODES, THIS_NODE = "SLURM_JOB_NODELIST", "SLURMD_NODENAME"

SSH = "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=5 {host}"
SRUN = "srun --nodes=1 --ntasks=1 --overlap --unbuffered --nodelist={host} sh -c"
ANSWERS_S = 60.0  # in which Slurm expands a list

HOST = re.compile(r"\w[\w.:-]{0,252}", re.ASCII)
WAYS = re.compile(r"SLURM\w*|SSH_AUTH_SOCK")
"""Variables that ssh and srun need to reach a machine, and that no framework is to see."""

OWN = re.compile(r"TMPDIR|HF_\w+|FRAMEWORK_BENCH_\w+|\w+_(?:proxy|PROXY)")
"""Variables for this machine only, or not for the command line of another one."""


class HostsError(ValueError):
    """The machines are not known; the message says why."""


def known() -> list[str]:
    """The machines, this one first; empty where none are named."""
    if given := os.environ.get(HOSTS):
        found = [name.strip() for name in given.split(",")]
        source = HOSTS
    elif listed := os.environ.get(NODES):
        found, source = _expanded(listed), NODES
        here = os.environ.get(THIS_NODE)
        found.sort(key=lambda name: name != here)  # which keeps the order of the others
    else:
        return []
    for name in found:
        if not HOST.fullmatch(name):
            raise HostsError(f"{source}: {name!r} is no name of a machine")
        if found.count(name) > 1:
            raise HostsError(f"{source}: {name} is named twice")
    return found


def of_ranks(processes: int, nodes: int) -> list[str]:
    """The machine of each rank, as many ranks on each, in their order; empty where all are on this one."""
    if nodes == 1:
        return []
    found = known()
    if len(found) < nodes:
        named = f"{len(found)} named" if found else "none are named"
        raise HostsError(
            f"nodes={nodes}, and {named} in {HOSTS}: name them, as in {HOSTS}=node1,node2, this machine first"
        )
    return [found[rank * nodes // processes] for rank in range(processes)]


def remote() -> str:
    """The command that reaches a machine."""
    return os.environ.get(REMOTE) or (SRUN if os.environ.get(NODES) else SSH)


def command(remote: str, host: str, arguments: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The command that starts a program on a machine, in an environment like this one and nothing else of its own."""
    left = [f"{name}={value}" for name, value in env.items() if not (WAYS.fullmatch(name) or OWN.fullmatch(name))]
    line = f"exec {shlex.join(['env', '-i', *left, *arguments])}"
    return [*(word.replace("{host}", host) for word in shlex.split(remote)), line]


def ways() -> dict[str, str]:
    """What is set here of the variables with which a machine is reached."""
    return {name: value for name, value in os.environ.items() if WAYS.fullmatch(name)}


def forget_ways() -> None:
    """Takes them out of this process's environment, once it has no other machine to reach any more."""
    for name in ways():
        del os.environ[name]


def _expanded(listed: str) -> list[str]:
    try:
        asked = subprocess.run(
            ["scontrol", "show", "hostnames", listed], capture_output=True, text=True, timeout=ANSWERS_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostsError(f"{NODES}: scontrol does not tell the machines of {listed}: {error}") from error
    return asked.stdout.split()
