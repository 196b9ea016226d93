"""Text from a trained language model, for people, who look at it before they look at a perplexity."""

from typing import Protocol, runtime_checkable

import numpy as np

from backends.api import Session
from bench.worker import loop
from tasks.corpus import Corpus, Text
from tasks.spec import Batch


@runtime_checkable
class LanguageTask(Protocol):
    """What sampling needs of a task: how its text is cut, and the number of each token."""

    @property
    def text(self) -> Text: ...
    @property
    def corpus(self) -> Corpus: ...


def sample_greedy(session: Session, task: LanguageTask, prompt: str, length: int) -> list[str]:
    """The `length` tokens that follow `prompt`, each the one of the largest logit given all before it.

    The recurrent state starts at zero, and is zero again afterwards. A token of the prompt that is not in the vocabulary
    is read as <unk>; without a prompt the text starts as the held-out text does, after the end of a line.
    """
    tokens = task.corpus.ids([task.text.start, *task.text.tokenize(prompt)])
    session.reset_state()
    # One token at a time, the prompt too: a single shape is a single compilation.
    for token in tokens:
        following = _next(session, token)
    sampled = []
    for _ in range(length):
        sampled.append(task.corpus.vocabulary[following])
        following = _next(session, np.int32(following))
    session.reset_state()
    return sampled


def sample(session: Session, task: LanguageTask, *, length: int) -> str:
    """A text of `length` tokens from the start of a line, as one string."""
    return task.text.separator.join(sample_greedy(session, task, "", length))


def _next(session: Session, token: np.int32) -> int:
    one = np.full((1, 1), token, np.int32)
    _, predictions = session.eval_step(loop.put(session, Batch({"tokens": one}, one, np.ones((1, 1), np.float32))))
    return int(session.fetch(predictions)[0, 0])
