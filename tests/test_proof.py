"""Whether two arms did the same updates, told from the losses of their windows."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import tasks
from backends.api import Options
from backends.reference.session import ReferenceSession
from bench.records.proof import losses_agree
from bench.worker import loop
from tasks.spec import Batch

BEFORE, BLOCK, BLOCKS = 21, 10, 20


def a_window(*, skipped: float = 0.0, noise: float = 0.0, decay: float = 150.0, seed: int = 0) -> dict[int, float]:
    """Losses of a curve that falls by e in `decay` updates to a floor, for an arm that leaves out a share of its updates."""
    updates = BEFORE + BLOCK * np.arange(1, BLOCKS + 1)
    curve = 0.2 + 2 * np.exp(-updates * (1 - skipped) / decay)
    losses = curve * np.exp(noise * np.random.default_rng(seed).standard_normal(BLOCKS))
    return dict(zip(updates.tolist(), losses.tolist(), strict=True))


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.02, 0.1])
def test_arms_that_did_the_same_work_agree_whatever_their_masks_do(noise: float) -> None:
    for seed in range(200):
        first, second = (a_window(noise=noise, seed=seed + shift) for shift in (0, 1000))
        assert losses_agree(first, second, "float32") is None


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_every_fifth_update_left_out_is_caught_while_the_loss_falls(noise: float) -> None:
    caught = [
        losses_agree(a_window(skipped=0.2, noise=noise, seed=seed), a_window(noise=noise, seed=seed + 1000), "float32")
        for seed in range(100)
    ]
    assert sum(reason is not None for reason in caught) >= 99
    assert all(
        reason is None or (reason.startswith("training losses") and " higher over 20 equal" in reason)
        for reason in caught
    )


def test_on_a_plateau_nothing_can_be_claimed() -> None:
    assert losses_agree(a_window(skipped=0.2, decay=1.0), a_window(decay=1.0), "float32") is None


def test_too_few_common_updates_are_no_agreement() -> None:
    other = {update + 1: loss for update, loss in a_window().items()}
    assert losses_agree(a_window(), other, "float32") == (
        "losses of 0 updates in common: at least 5 are needed to compare the work done"
    )


@pytest.mark.parametrize("small", [0.0, -0.0])
def test_a_loss_that_is_rounded_to_nothing_says_nothing(small: float) -> None:
    assert losses_agree({**a_window(), 31: small}, a_window(), "float32") is None
    nothing = dict.fromkeys(a_window(), small)
    assert "losses of 0 updates in common" in str(losses_agree(nothing, nothing, "float32"))


class EveryFifthUpdateSkipped(ReferenceSession):
    """Reports the loss and does nothing else, every fifth time."""

    steps = 0

    def train_step(self, batch: Batch) -> float:
        self.steps += 1
        if self.steps % 5:
            return super().train_step(batch)
        return self.loss_and_gradients(batch, self.state)[0]


@pytest.mark.slow
def test_a_session_that_skips_updates_is_caught_by_its_own_windows_losses() -> None:
    task = tasks.load("mnist_mlp", "smoke").task
    task = replace(task, batch_size=8)

    def window(session: ReferenceSession) -> dict[int, float]:
        losses = [float(loop.step(session, batch)) for batch in islice(task.train_batches(seed=0), 80)]
        return {update: losses[update - 1] for update in range(23, 81, 3)}

    sound, skipping = (kind(task, task.init_params(0)) for kind in (ReferenceSession, EveryFifthUpdateSkipped))
    reason = losses_agree(window(skipping), window(sound), Options().precision)
    assert reason is not None
    assert "higher" in reason
