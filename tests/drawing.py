"""Sessions of the reference for the tests of the ladder, and backends made of one class of sessions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.api import Options
from backends.reference.session import ReferenceSession
from bench.worker.dropout import AT_REST
from tasks.spec import Batch, Params, Task


class DrawingSession(ReferenceSession):
    """The reference, which computes no gradient at rest: hundreds of such steps are taken for rung 8."""

    def train_step(self, batch: Batch) -> float:
        if self.task.optimizer.learning_rate > AT_REST:
            return super().train_step(batch)
        self.updates += 1
        self.drop = self.drop_in_training
        logits, self.state = self.forward(self.values, batch.inputs, self.state)
        return float(self.mean_loss(self.losses(logits, batch.labels), batch.weights))


@dataclass(frozen=True)
class Subject:
    """A backend made of one class of sessions: called with the task, the parameters and `seed`."""

    session: Callable[..., ReferenceSession]

    def versions(self) -> Mapping[str, str]:
        return {}

    def open_session(self, task: Task, params: Params, options: Options) -> ReferenceSession:
        return self.session(task, params, seed=options.seed)
