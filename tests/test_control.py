"""An arm that is timed twice: what it says about a table, and that it changes nothing else of it."""

import json
from collections.abc import Callable, Sequence

import pytest

from bench.records.record import CONTROL, Record
from bench.report import facts, grouping, markdown, publish, summary, table_json
from tests.builders import a_row, a_run, changed
from tests.fakes.campaign import a_plan, an_arm
from tests.test_cli import FAKE, Done, bench, refusal
from tests.test_report import FAST, TWO, only_section, table_of

__all__ = ["bench"]  # the fixture


def controlled(speeds: Sequence[float]) -> list[Record]:
    """Two arms, and the faster one a second time at these speeds."""
    again = [one for one in a_row("fast", speeds, name=CONTROL) if one.cell.kind in ("parity", "speed")]
    return [*a_run(TWO), *again]


NEARLY = [speed * (1 + 0.002 * (-1) ** number) for number, speed in enumerate(FAST)]


def test_a_control_is_a_line_and_no_row() -> None:
    made = controlled(NEARLY)
    (section,) = grouping.sections(made)
    assert [row.name for row in section.rows] == ["fast", "slow"]
    ((told),) = [text for name, text in facts.facts(section) if name == "Control"]
    assert told.startswith("fast against itself, a second time in every round: ")
    assert told.endswith(", 5 rounds: tie")
    assert table_of(made) == table_of(a_run(TWO))
    assert summary.sentences(section) == summary.sentences(only_section(a_run(TWO)))


def test_a_control_of_one_round_is_told_in_the_singular() -> None:
    section = only_section(controlled(NEARLY[:1]))
    ((told),) = [text for name, text in facts.facts(section) if name == "Control"]
    assert told.endswith(", 1 round: not decided")


def test_a_control_that_is_called_different_is_said_first() -> None:
    made = controlled([speed * 1.2 for speed in NEARLY])
    (section,) = grouping.sections(made)
    first, *_ = summary.sentences(section)
    assert first.startswith("The control failed: fast was called faster than itself (1.2005 (")
    assert first.endswith(" times, 5 rounds). No verdict of this table can be trusted.")
    assert first in markdown.brief(made).replace("\\", "")
    (table,) = json.loads(table_json.render(made))["tables"]
    assert (table["control"]["of"], table["control"]["decision"]) == ("fast", "faster")


def test_a_control_that_failed_says_so() -> None:
    dead = {"status": "killed", "reason": "by SIGKILL", "timings": None}
    made = [changed(one, **dead) if (one.cell.arm.name, one.cell.kind) == (CONTROL, "speed") else one
            for one in controlled(NEARLY)]  # fmt: skip
    (section,) = grouping.sections(made)
    assert ("Control", "it was not measured in a round that counts") in facts.facts(section)
    assert "control, speed, round 1, seed 0: killed: by SIGKILL" in summary.failures(section)
    assert [row.excluded for row in section.rows] == [None, None]


def test_a_control_is_proven_and_timed_and_nothing_else() -> None:
    cells = a_plan("a.a", "b.b", an_arm(CONTROL, backend="a.a"), rounds=3, seeds=2).cells
    kinds = [cell.kind for cell in cells if cell.arm.name == CONTROL]
    assert sorted(kinds) == ["parity", "speed", "speed", "speed"]


def test_another_program_of_this_name_is_an_arm_like_any_other() -> None:
    made = [*a_run(TWO), *a_row("third", FAST, name=CONTROL)]
    (section,) = grouping.sections(made)
    assert sorted(row.name for row in section.rows) == [CONTROL, "fast", "slow"]
    assert section.control is None
    cells = a_plan("a.a", an_arm(CONTROL, backend="b.b"), rounds=1, seeds=1).cells
    assert {cell.kind for cell in cells if cell.arm.name == CONTROL} == {"parity", "speed", "memory", "quality"}


def test_an_arm_alone_that_has_this_name_is_an_arm() -> None:
    (section,) = grouping.sections(a_row("fast", FAST, name=CONTROL))
    assert [row.name for row in section.rows] == [CONTROL]
    assert section.control is None


def test_the_command_of_a_published_table_has_it() -> None:
    assert " --control " in publish.command(only_section(controlled(NEARLY)))


def test_a_second_arm_of_this_name_is_refused(bench: Callable[..., Done]) -> None:
    line = refusal(bench("run", *FAKE, "--arm", f"{CONTROL}=tests.fakes.backend:fast", "--control", "--output", "run"))
    assert "--control adds an arm called control, and there is one of that name: give that another label" in line


@pytest.mark.slow
def test_a_run_with_a_control(bench: Callable[..., Done]) -> None:
    done = bench("run", *FAKE, "--rounds", 3, "--seeds", 1, "--control", "--output", "run")
    assert done.code == 0, done.error
    assert "Control: tests.fakes.backend against itself" in done.out
    checked = bench("check", "run")
    # By chance, one control in twenty is called different; the table and `check` then say so, and nothing else is wrong.
    different = "The control failed: " in done.out
    assert checked.code == int(different), checked.out
    assert checked.out.count(": control: ") == int(different)
