"""Real processes that end in every way there is; none of them may be left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from backends import Entry
from bench.process import environment, launch, phases
from bench.process.launch import LOG_BYTES, Deadlines, Ending
from bench.records.record import Arm
from bench.worker import memory
from tests.conftest import assert_gone, started, wait_until

ROOT = Path(__file__).parent.parent
LONG_S = 120.0  # a deadline that is not meant to be reached


def run(tmp_path: Path, code: str, *, timeout_s: float = LONG_S, **deadlines: Any) -> tuple[Ending, bytes]:
    """How a Python program ended, and its log."""
    log = tmp_path / "log"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ending = launch.run(command, env=env, log=log, deadlines=Deadlines(timeout_s, **deadlines))
    return ending, log.read_bytes()


def test_a_process_that_returns_0_is_ok(tmp_path: Path) -> None:
    ending, log = run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    assert ending.status == "ok"
    assert ending.reason is None
    assert ending.wall_s > 0
    assert sorted(log.split()) == [b"err", b"out"]


def test_an_exit_code_is_told_with_the_last_line_that_was_printed(tmp_path: Path) -> None:
    ending, _ = run(tmp_path, "import os; print('first\\nno such GPU\\n\\n', flush=True); os._exit(3)")
    assert ending.status == "failed"
    assert ending.reason == "the process exited with code 3: no such GPU"


def test_an_exit_without_a_word_says_so(tmp_path: Path) -> None:
    ending, log = run(tmp_path, "import os; os._exit(3)")
    assert ending.reason == "the process exited with code 3: it printed nothing"
    assert log == b""


def test_a_traceback_becomes_its_last_line(tmp_path: Path) -> None:
    ending, log = run(tmp_path, "raise ValueError('of all things')")
    assert ending.reason == "the process exited with code 1: ValueError: of all things"
    assert b"Traceback" in log


def test_output_that_is_no_text_still_gives_one_line(tmp_path: Path) -> None:
    code = "import os; os.write(1, bytes(range(256)) + b'\\xff\\xfe the end'); os._exit(3)"
    ending, log = run(tmp_path, code)
    assert ending.reason is not None
    assert ending.reason.endswith("the end")
    assert "\n" not in ending.reason
    assert bytes(range(256)) in log


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    ending, _ = run(tmp_path, f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert ending.status == "killed"
    assert ending.reason is not None
    assert f"the process was ended by {name}" in ending.reason
    assert ("out of memory" in ending.reason) == (name == "SIGKILL")


@pytest.mark.slow
def test_a_process_that_hangs_is_stopped_at_its_deadline(tmp_path: Path) -> None:
    ending, log = run(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(60)", timeout_s=1)
    assert ending.status == "timeout"
    assert ending.reason == "stopped after its deadline of 1 s"
    assert ending.wall_s >= 1
    assert_gone(int(log))


@pytest.mark.slow
def test_a_process_may_end_itself_within_the_grace_period_but_stays_a_timeout(tmp_path: Path) -> None:
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("tidied up"), sys.exit(0)))
        print("ready", flush=True)
        time.sleep(60)
        """
    ending, log = run(tmp_path, code, timeout_s=1)
    assert ending.status == "timeout"
    assert log.split(b"\n")[:2] == [b"ready", b"tidied up"]


@pytest.mark.slow
def test_who_ignores_sigterm_goes_with_all_grandchildren(tmp_path: Path) -> None:
    code = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(os.getpid(), child.pid, flush=True)
        time.sleep(60)
        """
    ending, log = run(tmp_path, code, timeout_s=1, grace_s=0.3)
    assert ending.status == "timeout"
    pids = [int(word) for word in log.split()]
    assert len(pids) == 2
    assert_gone(*pids)


@pytest.mark.slow
def test_a_grandchild_does_not_outlive_a_process_that_ended_well(tmp_path: Path) -> None:
    code = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(child.pid, flush=True)
        """
    ending, log = run(tmp_path, code)
    assert ending.status == "ok"
    assert_gone(int(log))


@pytest.mark.slow
def test_a_gibibyte_of_output_leaves_a_small_log_with_both_ends(tmp_path: Path) -> None:
    code = """
        import sys
        print("the beginning")
        for _ in range(1024):
            sys.stdout.write("x" * 2**20)
        print("\\nthe end")
        """
    memory.reset_host_peak()
    before = memory.host_now().bytes
    ending, log = run(tmp_path, code)
    peak = memory.host_peak().bytes
    assert before is not None
    assert peak is not None
    assert peak - before < 32 * 2**20
    assert ending.status == "ok"
    assert log.startswith(b"the beginning\nxxx")
    assert log.endswith(b"xxx\nthe end\n")
    assert len(log) < 3 * LOG_BYTES + 100
    dropped = int(log.partition(b"\n... ")[2].partition(b" bytes left out")[0].replace(b",", b""))
    kept = len(log) - len(f"\n... {dropped:,} bytes left out ...\n")
    assert kept + dropped == len("the beginning\n\nthe end\n") + 2**30


@pytest.mark.slow
def test_a_log_has_exactly_the_first_and_the_last_bytes(tmp_path: Path) -> None:
    _, log = run(tmp_path, "for number in range(300_000): print('line', number)")
    written = b"".join(b"line %d\n" % number for number in range(300_000))
    head, _, tail = log.partition(b"\n... ")
    tail = tail.partition(b" left out ...\n")[2]
    assert head == written[:LOG_BYTES]
    assert len(tail) >= LOG_BYTES
    assert written.endswith(tail)


def test_output_of_the_size_of_the_log_is_kept_whole(tmp_path: Path) -> None:
    _, log = run(tmp_path, f"print('a' * {LOG_BYTES} + 'b' * {LOG_BYTES - 1})")
    assert log == b"a" * LOG_BYTES + b"b" * (LOG_BYTES - 1) + b"\n"


def test_there_is_no_standard_input(tmp_path: Path) -> None:
    """Else a process would read what the user types, or wait for it."""
    own = os.dup(0)
    read_end, write_end = os.pipe()
    os.write(write_end, b"typed by the user")
    os.close(write_end)
    os.dup2(read_end, 0)
    try:
        ending, log = run(tmp_path, "import sys; print(repr(sys.stdin.read()))")
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(read_end)
    assert ending.status == "ok"
    assert log == b"''\n"


def test_a_process_has_a_session_of_its_own(tmp_path: Path) -> None:
    _, log = run(tmp_path, "import os; print(os.getsid(0) == os.getpid())")
    assert log == b"True\n"


def test_an_interrupted_parent_takes_its_child_along(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def interrupt() -> None:
        wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # with nohup or & it would be ignored

    threading.Thread(target=interrupt, daemon=True).start()
    code = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, code)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_gone(int(pid_file.read_text()))


@pytest.mark.slow
def test_a_parent_that_is_interrupted_from_outside_takes_its_child_along(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from bench.process import launch
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = "import os, time; print(os.getpid(), file=open({pid!r}, 'w'), flush=True); time.sleep(60)"
        launch.run([sys.executable, "-c", child], env=os.environ, log=Path({log!r}), deadlines=launch.Deadlines(60))
        """
    pid_file = tmp_path / "pid"
    program = textwrap.dedent(code).format(pid=str(pid_file), log=str(tmp_path / "log"))
    with started([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as parent:
        wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        parent.send_signal(signal.SIGINT)
        _, error = parent.communicate(timeout=20)
    assert b"KeyboardInterrupt" in error
    assert_gone(int(pid_file.read_text()))


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        launch.run([str(tmp_path / "nothing")], env={}, log=tmp_path / "log", deadlines=Deadlines(1))


def test_no_descriptor_and_no_thread_is_left(tmp_path: Path) -> None:
    run(tmp_path, "print(1)")
    before = psutil.Process().num_fds()
    run(tmp_path, "print(1)")
    assert psutil.Process().num_fds() == before
    assert not [thread for thread in threading.enumerate() if thread.name.endswith(("(_tell_end)", "(read)"))]


# Phases.

TELLS = "from bench.process import phases; phases.attach(); "


@pytest.mark.slow
def test_a_phase_has_its_own_deadline_from_its_beginning(tmp_path: Path) -> None:
    code = TELLS + "import time; [(phases.enter(name), time.sleep(0.3)) for name in 'aaabbbccc']; time.sleep(60)"
    ending, _ = run(tmp_path, code, phases_s={"a": 20, "b": 20, "c": 1.0})
    assert (ending.status, ending.reason) == ("timeout", "stopped after 1 s, the deadline of the phase 'c'")


@pytest.mark.slow
def test_the_whole_deadline_holds_whatever_is_told(tmp_path: Path) -> None:
    code = TELLS + "import time; [(phases.enter('a'), time.sleep(0.1)) for _ in range(600)]"
    ending, _ = run(tmp_path, code, timeout_s=2, phases_s={"a": 20})
    assert (ending.status, ending.reason) == ("timeout", "stopped after its deadline of 2 s, in the phase 'a'")


@pytest.mark.slow
def test_a_process_that_never_tells_of_a_phase_is_stopped_in_its_start(tmp_path: Path) -> None:
    ending, _ = run(tmp_path, "import time; time.sleep(60)", phases_s={"start": 0.5})
    assert ending.reason == "stopped after 0.5 s, the deadline of the phase 'start'"


@pytest.mark.parametrize("told", ["'unknown'", "'x' * 100_000", "'\\x1b[2J\\n\\n'"])
@pytest.mark.slow
def test_a_phase_that_is_none_changes_nothing(tmp_path: Path, told: str) -> None:
    code = TELLS + f"phases.enter('a'); phases.enter({told}); import time; time.sleep(60)"
    ending, _ = run(tmp_path, code, phases_s={"a": 1.0})
    assert ending.reason == "stopped after 1 s, the deadline of the phase 'a'"


def test_a_worker_that_was_started_by_hand_tells_nobody() -> None:
    program = "from bench.process import phases; phases.attach(); phases.enter('a'); print('well')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.stderr) == ("well\n", "")


# Its parent's death.

HANGS = {
    "asleep": "import time; time.sleep(60)",
    "in native code that holds the interpreter's lock": "import ctypes; ctypes.PyDLL(None).pause()",
    "ignoring every signal that can be": """
import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    signal.pause()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("attaches", [True, False], ids=["a worker", "any command"])
@pytest.mark.parametrize("hang", HANGS)
def test_a_parent_that_is_killed_takes_its_child_and_grandchild_along(
    tmp_path: Path, hang: str, attaches: bool
) -> None:
    child = tmp_path / "child.py"
    grandchild = [sys.executable, "-c", HANGS["ignoring every signal that can be"]]
    child.write_text(
        f"{TELLS if attaches else ''}import os, subprocess\n"
        f"grandchild = subprocess.Popen({grandchild!r})\n"
        f"with open({str(tmp_path / 'pids.new')!r}, 'w') as file: print(os.getpid(), grandchild.pid, file=file)\n"
        f"os.rename({str(tmp_path / 'pids.new')!r}, {str(tmp_path / 'pids')!r})\n"
        f"{HANGS[hang]}"
    )
    program = f"""
import os, sys
from pathlib import Path
from bench.process.launch import Deadlines, run
run([sys.executable, {str(child)!r}], env=os.environ, log=Path({str(tmp_path / "log")!r}), deadlines=Deadlines(60))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with started([sys.executable, "-c", program], cwd=ROOT, env=env) as parent:
        wait_until((tmp_path / "pids").exists)
        parent.kill()
    assert_gone(*map(int, (tmp_path / "pids").read_text().split()))


def test_a_worker_whose_parent_is_gone_before_it_could_ask_for_a_signal_ends_itself() -> None:
    told, tell = os.pipe()
    lifeline, held = os.pipe()
    waiting, turns = os.pipe()
    program = "from bench.process import phases; phases.attach(); import time; time.sleep(60)"
    env = {**os.environ, phases.VARIABLE: f"{tell},{lifeline},{waiting}"}
    with started(
        [sys.executable, "-c", program], cwd=ROOT, env=env, pass_fds=(tell, lifeline, waiting), start_new_session=True
    ) as worker:
        for descriptor in (told, tell, lifeline, held, waiting, turns):
            os.close(descriptor)
        assert worker.wait(20) == -signal.SIGKILL


def test_no_grandchild_inherits_the_pipes(tmp_path: Path) -> None:
    program = TELLS + (
        "import os, subprocess; "
        "subprocess.run(['ls', '/proc/self/fd'], close_fds=False); print(os.environ.get(phases.VARIABLE))"
    )
    _, log = run(tmp_path, program)
    assert log.split() == [b"0", b"1", b"2", b"3", b"None"]  # 3 is the folder that ls reads


def test_a_module_in_the_current_folder_does_not_shadow_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('shadowed')")
    command = launch.worker_command(tmp_path / "no request", tmp_path / "no record")
    log = tmp_path / "log"
    env = environment.for_child(Entry("a"), Arm(name="a", backend="a.b"))
    ending = launch.run(command, env=env, log=log, deadlines=Deadlines(LONG_S))
    assert ending.status == "failed"
    assert b"shadowed" not in log.read_bytes()
    assert ending.reason is not None
    assert "FileNotFoundError" in ending.reason
