"""Advice from records: each sentence has a run behind it, and what was not measured is said with the command that would."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.records import files
from bench.report import advice
from bench.report.advice import Wish
from bench.report.frame import frame
from tests.builders import a_run, write_records
from tests.test_cli import Done, bench, refusal
from tests.test_inference import an_asked_run
from tests.test_loading import FREE, WAITS, a_loaded_run
from tests.test_report import FAST, SLOW

__all__ = ["bench"]  # the fixture

RUN = {"pytorch": FAST, "jax": SLOW}
NOISY = [100.0, 130.0, 90.0, 101.0, 120.0]


def told(runs: dict[str, list], wish: Wish = Wish()) -> dict[str, list[str]]:  # noqa: B008
    return dict(advice.advice(runs, wish))


def test_a_table_says_who_is_ahead_and_names_its_run() -> None:
    found = told({"2026-01-01-a": a_run(RUN, preset="quick")})
    title, *_ = found
    assert title.startswith("mnist_mlp: preset quick")
    assert "2026-01-01-a: 2026-01-01, A CPU, 2 cores" in title
    assert found[title][0].startswith("pytorch trains 2.0")
    assert any(text.startswith("Least host memory at its peak: ") for text in found[title])


def test_what_is_not_decided_comes_with_the_command_that_would_decide_it() -> None:
    found = told({"a": a_run({"pytorch": SLOW, "jax": NOISY})})
    (text,) = [one for one in next(iter(found.values())) if one.startswith("Not decided: ")]
    assert "jax and pytorch" in text or "pytorch and jax" in text
    assert "framework-bench run --task mnist_mlp" in text


def test_a_run_that_another_supersedes_gives_no_advice() -> None:
    found = told({"2026-02-01-b": a_run(RUN, id="b"), "2026-01-01-a": a_run(RUN, id="a")})
    assert [title for title in found if "2026-01-01-a" in title] == []


def test_what_tuning_is_worth_is_said_of_each_backend() -> None:
    tuned = a_run({"jax": FAST}, mode="tuned", name="jax:tuned")
    found = told({"a": [*a_run({"jax": SLOW}), *tuned]})
    assert any(text.startswith("Tuning jax: 2.0") and text.endswith("faster") for text in next(iter(found.values())))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(), "gru_lm on the cpu: framework-bench run --task gru_lm --device cpu"),
        (
            Wish(task="mnist_mlp"),
            "mnist_mlp in tensorflow: framework-bench run --task mnist_mlp --device cpu --backend tensorflow",
        ),
        (
            Wish(task="mnist_mlp", device="gpu"),
            "mnist_mlp on the gpu: framework-bench run --task mnist_mlp --device gpu",
        ),
        (Wish(task="mnist_mlp", batch_size=7), "mnist_mlp at a batch size of 7 (there is 32): framework-bench sweep"),
        (Wish(task="mnist_mlp"), "mnist_mlp in bfloat16: "),
    ],
)
def test_what_was_never_measured_is_said(wish: Wish, said: str) -> None:
    runs = {"a": a_run(RUN, spec={"task": "mnist_mlp", "batch_size": 32})}
    assert any(text.startswith(said) for text in told(runs, wish)["Never measured"])


# Beside training.

ASKED = {"slow": [2.0, 2.02, 1.99], "fast": [1.0, 1.01, 0.99], "noisy": [1.0, 2.6, 1.1]}


def test_inference_says_who_answers_fastest_how_soon_and_what_is_open() -> None:
    found = told({"2026-01-01-i": an_asked_run(ASKED)}, Wish(measure="inference"))
    title, sentences = next(iter(found.items()))
    assert title.startswith("Inference: mnist_mlp, preset quick (2026-01-01-i: ")
    assert sentences[0].startswith("Batch 1: fast has the least median latency, 1.00")
    assert "99th percentile" in sentences[0]
    assert any(
        text.startswith("Batch 1: fast answers 2.0") and text.endswith("as slow (3 rounds).") for text in sentences
    )
    assert any(text.startswith("Batch 4: fast answers most, ") for text in sentences)
    assert any(text.startswith("First answer soonest, import and build included: ") for text in sentences)
    (undecided,) = [text for text in sentences if text.startswith("Not decided: ")]
    assert "noisy with batch 1" in undecided or "noisy and" in undecided
    assert "--measure inference" in undecided


def test_a_batch_that_was_asked_is_alone_and_one_that_was_not_is_said_to_be_missing() -> None:
    runs = {"i": an_asked_run(ASKED)}
    one = next(iter(told(runs, Wish(measure="inference", batch_size=1)).values()))
    assert not any("atch 4" in text for text in one)
    other = told(runs, Wish(task="mnist_mlp", measure="inference", batch_size=7))
    assert any("atch 4" in text for text in next(iter(other.values())))
    assert any(
        text
        == "Inference of mnist_mlp at a batch size of 7 (there is 1, 4): framework-bench run --task mnist_mlp --device cpu "
        "--measure inference --set batch_size=7"
        for text in other["Never measured"]
    )


def test_loaders_give_advice_too_and_a_wish_for_one_thing_leaves_the_others_out() -> None:
    loaded = a_loaded_run({"waits": WAITS, "free": FREE})
    runs = {"c": loaded, "b": an_asked_run(ASKED), "a": a_run(RUN)}
    found = told(runs, Wish(measure="loading"))
    assert [title.partition(":")[0] for title in found] == ["Loading", "Never measured"]
    assert any("waits waits for its loader" in text for text in next(iter(found.values())))
    assert {title.partition(":")[0] for title in told(runs)} == {"Loading", "Inference", "mnist_mlp", "Never measured"}
    trained = told(runs, Wish(measure="training"))
    assert {title.partition(":")[0] for title in trained} == {"mnist_mlp", "Never measured"}
    assert not any("nference" in text or "oading" in text for text in trained["Never measured"])


def test_what_was_never_asked_or_loaded_is_said_with_its_command() -> None:
    missing = told({"a": a_run(RUN)}, Wish(task="mnist_mlp"))["Never measured"]
    for kind in ("inference", "loading"):
        command = f"framework-bench run --task mnist_mlp --device cpu --measure {kind}"
        assert f"{kind.capitalize()} of mnist_mlp on the cpu: {command}" in missing


def test_a_later_run_of_predictions_supersedes_an_earlier_one() -> None:
    found = told({"2026-02-01-b": an_asked_run(ASKED, id="b"), "2026-01-01-a": an_asked_run(ASKED, id="a")})
    assert [title for title in found if "2026-01-01-a" in title] == []
    assert [title for title in found if "2026-02-01-b" in title]


def test_no_sweep_of_another_device_is_advice() -> None:
    common = {"id": "r", "versions": {"jax": "1.0"}}
    modes = [
        one for mode in ("default", "rbg") for one in a_run({"jax": FAST}, name=f"jax:{mode}", mode=mode, **common)
    ]
    assert any(title.startswith("Sweep") for title in told({"a": modes}, Wish(device="cpu")))
    assert list(told({"a": modes}, Wish(device="gpu"))) == ["Never measured"]


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["training", "inference", "loading"])
def test_the_published_results_give_advice_on_each_measure(bench: Callable[..., Done], measure: str) -> None:
    published = Path(__file__).parent.parent / "results"
    done = bench("advise", published, "--task", "mnist_mlp", "--device", "cpu", "--measure", measure, "--batch", 1)
    assert done.code == 0, done.error
    if measure == "inference":
        assert "Batch 1: jax has the least median latency" in done.out
    elif measure == "training":
        assert "at a batch size of 1" in done.out
    else:
        assert "oading" in done.out


def test_a_wish_for_another_device_leaves_tables_out() -> None:
    assert list(told({"a": a_run(RUN)}, Wish(device="gpu"))) == ["Never measured"]


def test_the_command_reads_a_run_and_a_folder_of_runs(bench: Callable[..., Done], tmp_path: Path) -> None:
    write_records(tmp_path / "results" / "2026-01-01-a", a_run(RUN))
    for path in (tmp_path / "results", tmp_path / "results" / "2026-01-01-a"):
        done = bench("advise", path)
        assert done.code == 0, done.error
        assert "- pytorch trains 2.0" in done.out
        assert "Never measured" in done.out
    assert "no runs in" in refusal(bench("advise", tmp_path))


def test_folders_of_one_name_are_all_read(bench: Callable[..., Done], tmp_path: Path) -> None:
    write_records(tmp_path / "one" / "run", a_run(RUN))
    write_records(tmp_path / "two" / "run", a_run(RUN, task="gru_lm"))
    write_records(Path("run"), a_run(RUN, task="bert_sentiment"))
    done = bench("advise", tmp_path / "one" / "run", tmp_path / "two" / "run", "run")
    assert done.code == 0, done.error
    for task in ("mnist_mlp", "gru_lm", "bert_sentiment"):
        assert f"{task}: preset quick" in done.out
    assert "(two/run: " in done.out


def test_a_record_that_was_changed_is_in_no_advice_and_the_exit_code_says_so(
    bench: Callable[..., Done], tmp_path: Path
) -> None:
    write_records(tmp_path / "run", a_run(RUN))
    files.write_digest(tmp_path / "run")
    first, *_ = sorted((tmp_path / "run" / "records").iterdir())
    first.write_bytes(first.read_bytes() + b" ")
    done = bench("advise", tmp_path / "run")
    assert done.code == 1
    assert "it was changed after the run ended" in done.error


def test_hostile_records_do_not_reach_the_terminal_as_they_are(bench: Callable[..., Done], tmp_path: Path) -> None:
    write_records(tmp_path / "run", a_run(RUN, versions={"torch": "\x1b[2J"}))
    assert "\x1b" not in bench("advise", tmp_path / "run").out


@pytest.mark.slow
def test_the_published_results_give_advice(bench: Callable[..., Done]) -> None:
    done = bench("advise", Path(__file__).parent.parent / "results", "--task", "gru_lm", "--device", "cpu")
    assert done.code == 0, done.error
    assert "2026-11-26-gru_lm-standard-cpu" in done.out


def test_a_data_frame_has_a_line_for_each_row(tmp_path: Path) -> None:
    write_records(tmp_path / "run", a_run(RUN))
    table = frame(tmp_path / "run")
    assert list(table["arm"]) == ["pytorch", "jax"]
    assert table["throughput"].dtype.kind == "f"
    assert table.loc[table["arm"] == "jax", "verdict"].item() == "slower"
