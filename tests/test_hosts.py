"""The machines that an arm's processes are spread over: who names them, how they are reached, and what happens over there."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench.cli import arms
from bench.cli.options import UserError
from bench.machine import describe, hosts
from bench.process import environment, turns
from bench.records.record import Outcome
from bench.worker import disturbance, ranks
from tests.conftest import BACKENDS_UNDER_TEST, wait_until
from tests.fakes.campaign import a_planned_cell, an_arm
from tests.test_ranks import FAKE, ranked, run, two

__all__ = ["ranked"]  # the fixture

ROOT = Path(__file__).parent.parent
FAR_AWAY = f"{sys.executable} {ROOT / 'tests/children/far_away.py'} {{host}}"
TOKEN = "FAR_AWAY_TOKEN"  # in the environment of what a test starts over there


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (hosts.HOSTS, hosts.REMOTE, *hosts.ways()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two: addresses of this one, of which the second is reached through a relay."""
    monkeypatch.setenv(hosts.HOSTS, "127.0.0.1,127.0.0.2")
    monkeypatch.setenv(hosts.REMOTE, FAR_AWAY)


def spread(backend: str = FAKE, *, processes: int = 2, token: str = "none", **declared: Any) -> Any:
    return two(backend, processes=processes, nodes=2, environment={TOKEN: token}, **declared)


def over_there(token: str) -> list[psutil.Process]:
    """The ranks with a token in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and "bench.worker.rank" in process.cmdline():
                found.append(process)
        except (psutil.Error, OSError):
            pass
    return found


# Who names them.


def test_machines_are_named_in_a_variable_this_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hosts.known() == []
    monkeypatch.setenv(hosts.HOSTS, "one, two.example.org,10.0.0.3")
    assert hosts.known() == ["one", "two.example.org", "10.0.0.3"]
    assert hosts.of_ranks(4, 2) == ["one", "one", "two.example.org", "two.example.org"]
    assert hosts.of_ranks(3, 3) == ["one", "two.example.org", "10.0.0.3"]
    assert hosts.of_ranks(4, 1) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("one,-oProxyCommand=evil", "is no name of a machine"),
        ("one,,two", "'' is no name of a machine"),
        ("one,two;rm", "is no name of a machine"),
        ("one,one", "one is named twice"),
    ],
)
def test_what_is_no_list_of_machines_is_refused(monkeypatch: pytest.MonkeyPatch, given: str, why: str) -> None:
    monkeypatch.setenv(hosts.HOSTS, given)
    with pytest.raises(hosts.HostsError, match=why):
        hosts.known()
    with pytest.raises(UserError, match="--arm jax:processes=2,nodes=2: "):
        arms.resolve([arms.parse("jax:processes=2,nodes=2")], arms.Defaults(device="cpu"), required=False)


def test_in_a_job_of_slurm_they_are_the_jobs_and_reached_by_srun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-3]" ] && printf "node1\\nnode2\\nnode3\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(hosts.NODES, "node[1-3]")
    monkeypatch.setenv(hosts.THIS_NODE, "node2")
    assert hosts.known() == ["node2", "node1", "node3"]
    assert shlex.split(hosts.remote())[0] == "srun"
    assert hosts.command(hosts.remote(), "node1", ["python"], {})[-3:] == ["sh", "-c", "exec env -i python"]
    monkeypatch.setenv(hosts.NODES, "another")
    with pytest.raises(hosts.HostsError, match="scontrol does not tell the machines of another"):
        hosts.known()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("jax:processes=2,nodes=2", "nodes=2, and none are named in FRAMEWORK_BENCH_HOSTS: name them, as in"),
        ("jax:processes=3,nodes=2", "3 processes cannot be spread over 2 machines, as many on each"),
        ("jax:nodes=2", "1 processes cannot be spread over 2 machines"),
        ("jax:processes=2,nodes=0", "nodes '0' is not a number of nodes from 1 to"),
        ("jax:processes=2,nodes=two", "nodes 'two' is not a number of nodes"),
    ],
)
def test_an_arm_over_machines_that_are_not_there_is_refused_before_anything_runs(text: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        arms.resolve([arms.parse(text)], arms.Defaults(device="cpu"), required=False)
    assert why in str(caught.value)


def test_each_machine_needs_the_cores_of_its_own_processes_only(machines: None) -> None:
    made = arms.resolve([arms.parse("jax:processes=2,nodes=2,threads=1")], arms.Defaults(device="cpu"), required=False)
    (arm,) = [*made.arms, *(one for one, _ in made.absent)]
    assert (arm.processes, arm.nodes) == (2, 2)
    assert arm.typed({}).endswith("threads=1,processes=2,nodes=2")


# How one is reached.


def test_a_machine_gets_the_declared_environment_and_nothing_of_this_machines_own() -> None:
    env = {"A": "b c", "HF_TOKEN": "secret", "TMPDIR": "/here", "FRAMEWORK_BENCH_PIPES": "1", "https_proxy": "u:p@x"}
    made = hosts.command(hosts.SSH, "far", ["python", "-m", "x y"], env)
    assert made[0] == "ssh"
    assert made[-2:] == ["far", "exec env -i 'A=b c' python -m 'x y'"]


def test_what_ssh_and_srun_need_reaches_the_process_that_calls_them_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import backends

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SSH_AUTH_SOCK", "socket")
    alone, spread_out = (environment.for_child(backends.find(FAKE), arm) for arm in (two(), two(nodes=2)))
    assert not {"SLURM_JOB_ID", "SSH_AUTH_SOCK"} & set(alone)
    assert (spread_out["SLURM_JOB_ID"], spread_out["SSH_AUTH_SOCK"]) == ("7", "socket")
    hosts.forget_ways()
    assert not hosts.ways()


def test_a_name_that_is_not_this_machines_is_said_to_be_none() -> None:
    with pytest.raises(RuntimeError, match="the name of this machine is not an address that it can listen on"):
        ranks.free_addresses(1, host="192.0.2.1")  # of documentation, RFC 5737


@pytest.mark.parametrize(
    ("changes", "what"),
    [({}, ""), ({"cpu": "another"}, "cpu (another, not "), ({"python": "3.0"}, "python (3.0, not ")],
)
def test_another_machine_or_installation_is_named(changes: dict[str, Any], what: str) -> None:
    here = describe.describe()
    found = ranks._apart(("a", here), ("a", msgspec.structs.replace(here, **changes)))
    assert found.startswith(what)
    assert bool(found) == bool(what)
    assert ranks._apart(("a", here), ("b", here)) == "source of framework-bench"


def test_what_was_taken_on_every_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = disturbance.Taken(10.0, 1.0, 0.0, None), disturbance.Taken(20.0, 2.0, 3.0, None)
    monkeypatch.setattr(disturbance, "taken", lambda of_cores: here)
    found = disturbance.read(None, of_cores=[0], cpu_s=lambda: [4.0, 5.0], elsewhere=[there])
    assert (found.own_cpu_s, found.busy_s, found.stolen_s, found.siblings_s) == (9.0, 30.0, 3.0, 3.0)
    assert found.withheld_s is None
    watch = disturbance.Watch(gpu=False, of_cores=[0], cpu_s=lambda: [0.0, 0.0], elsewhere=lambda: [there])
    with watch:
        pass
    assert watch._machines == 2


# What happens over there.


@pytest.mark.slow
def test_processes_on_two_machines_climb_the_whole_ladder(tmp_path: Path, machines: None) -> None:
    done = run(tmp_path, spread(precision="float64", processes=4, token="climbs"), "parity").outcome
    assert (done.status, done.reason) == ("ok", None)
    wait_until(lambda: over_there("climbs") == [])


@pytest.mark.slow
def test_a_round_has_the_figures_of_the_ranks_of_every_machine(tmp_path: Path, machines: None) -> None:
    planned, cell = a_planned_cell(spread(token="round"))
    one = msgspec.structs.replace(cell, arm=an_arm("one", backend=FAKE))
    both, alone = turns.execute_round(planned, [cell, one], tmp_path, turns=5, data_dir=None, interpreters={})
    assert [(done.outcome.status, done.outcome.reason) for done in (both, alone)] == [("ok", None)] * 2
    first, second = both.outcome.ranks
    assert min(first.cpu_s, second.cpu_s) > 0  # type: ignore[type-var]
    assert both.outcome.timings is not None
    assert both.outcome.timings.cpu_s == pytest.approx(first.cpu_s + second.cpu_s)  # type: ignore[operator]
    assert both.outcome.disturbance is not None
    assert "127.0.0" not in msgspec.json.encode(both).decode()  # no name of a machine
    wait_until(lambda: over_there("round") == [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("misbehaviour", "status", "reason"),
    [
        ("raises in warm-up", "failed", "rank 1 of 2: RuntimeError: the layer is broken in rank 1"),
        ("exits in warm-up", "failed", "rank 1 of 2: exited with code 0"),
        ("stopped in warm-up", "timeout", "the deadline of the phase 'warm-up'"),
    ],
)
def test_a_rank_that_fails_over_there_is_one_record(
    tmp_path: Path, machines: None, ranked: Callable[[str], str], misbehaviour: str, status: str, reason: str
) -> None:
    arm = spread(ranked(misbehaviour), token=misbehaviour)
    done = run(tmp_path, arm, "speed", **{"warm-up": 8.0}).outcome
    assert (done.status, reason in str(done.reason)) == (status, True), done.reason
    for stopped in over_there(misbehaviour):
        stopped.send_signal(signal.SIGCONT)
    wait_until(lambda: over_there(misbehaviour) == [])


@pytest.mark.slow
def test_when_rank_0_is_killed_nothing_runs_on_over_there(tmp_path: Path, machines: None) -> None:
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, spread(token="killed"), "quality").outcome))
    thread.start()
    wait_until(lambda: over_there("killed") != [], patience_s=60)
    (rank_0,) = [one for one in psutil.Process().children() if "bench.worker" in one.cmdline()]
    rank_0.kill()
    thread.join(60)
    assert found[0].status == "killed"
    wait_until(lambda: over_there("killed") == [], patience_s=30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "reason"), [("false {host}", "rank 1 of 2: exited with code 1"), ("no-such-program", "no-such-program")]
)
def test_a_machine_that_is_not_reached_is_one_record(
    tmp_path: Path, machines: None, monkeypatch: pytest.MonkeyPatch, way: str, reason: str
) -> None:
    monkeypatch.setenv(hosts.REMOTE, way)
    done = run(tmp_path, spread(), "memory").outcome
    assert (done.status, reason in str(done.reason)) == ("failed", True), done.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_each_framework_climbs_over_two_addresses(tmp_path: Path, machines: None, name: str) -> None:
    from bench.campaign import plan
    from bench.campaign.plan import Choice
    from bench.process import execute

    arm = an_arm(name, processes=2, nodes=2)
    (made,) = plan.make(Choice(tasks=["mnist_mlp"], arms=[arm], preset="smoke", run_id="x"))
    done = execute.execute(made.run, made.cell(arm, kind="parity"), tmp_path, data_dir=None).outcome
    assert (done.status, done.reason) == ("ok", None)


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Two network namespaces with a wire between them, as two machines are apart; their addresses, by which they are named."""
    addresses = [f"10.213.{os.getpid() % 250}.{number}" for number in (1, 2)]
    names = [f"fb{address}" for address in addresses]
    if not shutil.which("ip"):
        pytest.skip("there is no program `ip` here")

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "eth0", "netns", names[1])
            for name, address in zip(names, addresses, strict=True):
                # JAX's gloo listens where the name of the machine leads to.
                own = Path("/etc/netns", name, "hosts")  # which `ip` puts in the place of /etc/hosts
                own.parent.mkdir(parents=True)
                own.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
                ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield addresses
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=30)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS_UNDER_TEST)
def test_each_framework_climbs_over_a_network(tmp_path: Path, networks: list[str], name: str) -> None:
    """Rank 1 shares no loopback interface with rank 0, as on another machine."""
    way = {hosts.HOSTS: ",".join(networks), hosts.REMOTE: "ip netns exec fb{host} sh -c"}
    done = subprocess.run(
        ["ip", "netns", "exec", f"fb{networks[0]}", sys.executable, "-m", "bench", "verify", "--task", "mnist_mlp",
         "--preset", "smoke", "--device", "cpu", "--arm", f"{name}:processes=2,nodes=2"],
        env={**os.environ, **way}, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
