"""One table that describes each metric of quality."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a figure of quality is shown."""

    title: str
    percent: bool
    higher_is_better: bool


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("test accuracy", percent=True, higher_is_better=True),
    "perplexity": Metric("perplexity", percent=False, higher_is_better=False),
    "loss": Metric("held-out loss", percent=False, higher_is_better=False),
}
