"""AdamW in NumPy, exactly as tasks.spec.AdamW writes it."""

from collections.abc import Mapping

import numpy as np

from tasks.spec import AdamW, Array


def adamw(
    spec: AdamW,
    *,
    values: Mapping[str, Array],
    gradients: Mapping[str, Array],
    moments: Mapping[str, tuple[Array, Array]],
    update: int,
) -> tuple[dict[str, Array], dict[str, tuple[Array, Array]]]:
    """One update as tasks.spec.AdamW writes it; `update` counts from 1. Returns new values and new moments."""
    scale = 1.0
    if spec.clip_norm is not None:
        norm = np.sqrt(sum(float(np.sum(np.square(gradient))) for gradient in gradients.values()))
        scale = min(1.0, spec.clip_norm / norm) if norm > 0 else 1.0
    rate = spec.learning_rate_at(update)
    new_values, new_moments = {}, {}
    for name, value in values.items():
        gradient = gradients[name] * scale
        first, second = moments[name]
        first = spec.beta1 * first + (1 - spec.beta1) * gradient
        second = spec.beta2 * second + (1 - spec.beta2) * gradient**2
        direction = (first / (1 - spec.beta1**update)) / (np.sqrt(second / (1 - spec.beta2**update)) + spec.eps)
        decay = spec.weight_decay if spec.decays(value) else 0.0
        new_values[name] = value - rate * direction - rate * decay * value
        new_moments[name] = (first, second)
    return new_values, new_moments
