"""One table that describes each metric of quality."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a figure of quality is shown."""

    title: str
    percent: bool
    higher_is_better: bool
    log_scale: bool = False  # its mean over seeds is geometric: a perplexity is the exponential of a mean loss


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("test accuracy", percent=True, higher_is_better=True),
    "perplexity": Metric("perplexity", percent=False, higher_is_better=False, log_scale=True),
    "loss": Metric("held-out loss", percent=False, higher_is_better=False),
}
