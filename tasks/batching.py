"""Batches of fixed shapes: seeded shuffles, parallel streams of a text, and padding with weight 0."""

from collections.abc import Iterator, Mapping

import numpy as np

from tasks.spec import Array, Batch, Examples, SpecError, Task


def endless(task: Task, seed: int) -> Iterator[Batch]:
    """The task's training batches; SpecError where they end, because no number of steps may run out of them."""
    count = 0
    for batch in task.train_batches(seed):
        yield batch
        count += 1
    raise SpecError(
        f"{task.name}: train_batches ended after {count:,} batches, expected batches without end; begin another pass over "
        "the examples there, as tasks.batching.shuffled does"
    )


def shuffled(inputs: Mapping[str, Array], labels: Array, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless epochs over the examples, each in a new order drawn from PCG64(seed); an epoch's last batch is padded."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(labels))
        yield from one_pass(inputs, labels, order=order, batch_size=batch_size)


def in_order(inputs: Mapping[str, Array], labels: Array, *, batch_size: int) -> Iterator[Batch]:
    """The examples once, in their own order; the last batch is padded."""
    return one_pass(inputs, labels, order=np.arange(len(labels)), batch_size=batch_size)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches in one pass, the padded one included."""
    return -(-examples // batch_size)


def one_pass(inputs: Mapping[str, Array], labels: Array, *, order: Array, batch_size: int) -> Iterator[Batch]:
    """The examples whose numbers are in `order`, int[N]; the last batch is padded."""
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        weights = np.zeros((batch_size, *labels.shape[1:]), np.float32)
        weights[: len(rows)] = 1
        # Padding repeats the slice's first example: real values, so that nothing in the model sees an odd input.
        rows = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])])
        yield Batch({name: array[rows] for name, array in inputs.items()}, labels[rows], weights)


def streams(tokens: Array, *, start: int, batch_size: int, window: int) -> Iterator[Batch]:
    """Endless epochs over a text cut into `batch_size` streams, read side by side, one window after the other.

    tokens int[N]. Row b of every batch continues row b of the batch before it, so a recurrent state can be carried; an
    epoch's first batch says starts_sequence. labels[b, t] is the token that follows inputs["tokens"][b, t]; the text's
    first token is predicted from `start`. Each stream has N // batch_size tokens. What is left over, fewer than `window`
    tokens of each stream and fewer than `batch_size` of the text, is dropped: every batch is full.
    """
    inputs, labels = _streams(tokens, start=start, batch_size=batch_size, window=window)
    while True:
        yield from _windows(inputs, labels, np.ones(labels.shape, np.float32), window=window)


def stream_examples(tokens: Array, *, start: int, batch_size: int, window: int) -> Examples:
    """The windows of `streams` as examples: every `batch_size` of them in a row are one of its batches."""

    def by_window(rows: Array) -> Array:
        """[batch_size, windows * window] -> [windows * batch_size, window]."""
        return rows.reshape(batch_size, -1, window).swapaxes(0, 1).reshape(-1, window)

    inputs, labels = _streams(tokens, start=start, batch_size=batch_size, window=window)
    return Examples({"tokens": by_window(inputs)}, by_window(labels), batch_size, shuffled=False)


def whole_streams(tokens: Array, *, start: int, batch_size: int, window: int) -> Iterator[Batch]:
    """The text once, in the same form, nothing dropped: streams and windows that end early are padded with weight 0."""
    stream = -(-len(tokens) // batch_size)
    length = -(-stream // window) * window
    weights = np.ones(len(tokens), np.float32)
    inputs, labels, weights = (
        np.pad(_rows(flat, batch_size=batch_size, stream=stream), ((0, 0), (0, length - stream)))
        for flat in (_shifted(tokens, start), tokens, weights)
    )
    yield from _windows(inputs, labels, weights, window=window)


def _streams(tokens: Array, *, start: int, batch_size: int, window: int) -> tuple[Array, Array]:
    """Inputs and labels [batch_size, a multiple of window]."""
    stream = len(tokens) // batch_size
    length = stream // window * window
    inputs, labels = (_rows(flat, batch_size=batch_size, stream=stream) for flat in (_shifted(tokens, start), tokens))
    return inputs[:, :length], labels[:, :length]


def _shifted(tokens: Array, start: int) -> Array:
    """The token before each token."""
    return np.concatenate([np.array([start], tokens.dtype), tokens[:-1]])


def _rows(flat: Array, *, batch_size: int, stream: int) -> Array:
    """[N] -> [batch_size, stream], cut at the end or padded with 0."""
    wanted = batch_size * stream
    return np.pad(flat[:wanted], (0, max(0, wanted - len(flat)))).reshape(batch_size, stream)


def _windows(inputs: Array, labels: Array, weights: Array, *, window: int) -> Iterator[Batch]:
    for begin in range(0, labels.shape[1], window):
        columns = slice(begin, begin + window)
        x, y, w = (np.ascontiguousarray(array[:, columns]) for array in (inputs, labels, weights))
        yield Batch({"tokens": x}, y, w, starts_sequence=begin == 0)
