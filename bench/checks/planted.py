"""The ladder's judgement of a backend with a changed source, in a process of its own."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import backends
from bench.campaign.plan import TaskPlan
from bench.process import environment, launch
from bench.process.execute import cores_of
from bench.process.request import Request
from bench.records import files
from bench.records.record import Arm, Outcome
from bench.records.source import ROOT

DEADLINE_S = 300.0


def climb(task_plan: TaskPlan, arm: Arm, changed: Mapping[str, str]) -> Outcome:
    """What becomes of an arm whose backend has other sources: name of a file of its package -> its content."""
    with tempfile.TemporaryDirectory(prefix="framework-bench-") as name:
        root = Path(name)
        shutil.copytree(ROOT / "backends", root / "backends", ignore=shutil.ignore_patterns("__pycache__"))
        for file, source in changed.items():
            (root / "backends" / arm.backend / file).write_text(source, encoding="utf-8")
        for package in ("bench", "tasks"):
            (root / package).symlink_to(ROOT / package)
        request, answer = root / "request.json", root / "answer.json"
        data_dir = task_plan.choice.data_dir
        data = str(data_dir.absolute()) if data_dir else None
        shares = cores_of(arm)
        asked = Request(task_plan.cell(arm, kind="parity"), data, takes_turns=False, hidden=[], cores=shares)
        files.write(request, asked)
        env = environment.for_child(backends.find(arm.backend), arm, temporary=root) | {"PYTHONPATH": str(root)}
        command = launch.worker_command(request, answer, cores=shares[0])
        ending = launch.run(command, env=env, log=root / "log", deadlines=launch.Deadlines(DEADLINE_S))
        if ending.status != "ok":
            return Outcome(status=ending.status, reason=ending.reason)
        return files.read_outcome(answer)
