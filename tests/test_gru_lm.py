"""The language model's text, vocabulary, streams, floor and bad input: everything that needs no framework."""

import gzip
import os
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks
from tasks import batching, corpus
from tasks.gru_lm import GruLm, GruLmConfig
from tasks.sources import DATA_VARIABLE, DataError
from tasks.spec import Batch, Evaluation, SpecError, describe_task, hash_json

WORDS = "the cat sat on the mat\n\nthe dog <unk>\n"


def wikitext(folder: Path, *, train: str = WORDS * 20, valid: str = WORDS * 8) -> GruLm:
    """The task on files of the user's, small enough to be counted by hand."""
    (folder / "wikitext-2").mkdir(exist_ok=True)
    (folder / "wikitext-2" / "train.txt").write_text(train, encoding="utf-8")
    (folder / "wikitext-2" / "valid.txt").write_text(valid, encoding="utf-8")
    model = GruLmConfig(vocabulary=6, embedding=3, hidden=4)
    return GruLm("wikitext-2", batch_size=4, window=5, steps=3, model=model, data_dir=folder)


def refused(task: GruLm) -> str:
    """The message with which the task refuses to start; one line."""
    with pytest.raises(SpecError) as caught:
        _ = task.data
    message = str(caught.value)
    assert "\n" not in message
    return message


# Text and vocabulary.


def test_words_are_cut_at_white_space_and_every_line_ends_in_eos(tmp_path: Path) -> None:
    text = wikitext(tmp_path, train="a  b\tc\n\nd").text
    assert list(text.train()) == ["a", "b", "c", "<eos>", "<eos>", "d", "<eos>"]


def test_the_vocabulary_has_the_most_frequent_words_equal_ones_in_the_order_of_code_points() -> None:
    counts = Counter({"b": 2, "a": 2, "Z": 2, "often": 9, "rare": 1})
    assert corpus.most_frequent(counts, 4) == ("often", "Z", "a", "<unk>")
    assert corpus.most_frequent(counts + Counter({"<unk>": 5}), 4) == ("often", "<unk>", "Z", "a")


def test_a_word_outside_the_vocabulary_is_unk(tmp_path: Path) -> None:
    numbered = wikitext(tmp_path).corpus
    assert numbered.vocabulary == ("<eos>", "the", "<unk>", "cat", "dog", "mat")
    assert [numbered.vocabulary[i] for i in numbered.train[:7]] == [
        "the",
        "cat",
        "<unk>",
        "<unk>",
        "the",
        "mat",
        "<eos>",
    ]
    assert [numbered.vocabulary[i] for i in numbered.ids(["dog", "zebra"])] == ["dog", "<unk>"]


@pytest.mark.parametrize("name", ["train.txt.gz", "wiki.train.tokens", "train.txt"])
def test_the_usual_names_of_wikitext_are_found(tmp_path: Path, name: str) -> None:
    task = wikitext(tmp_path)
    expected = task.data.sha256
    (tmp_path / "wikitext-2" / "train.txt").unlink()
    content = (WORDS * 20).encode()
    (tmp_path / "wikitext-2" / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert replace(task).data.sha256 == expected


def test_the_bundled_text_is_real_english_and_its_held_out_paragraphs_are_not_in_the_training_text() -> None:
    text = corpus.read("pydoc", None)

    def paragraphs(tokens: corpus.Tokens) -> set[str]:
        return set(" ".join(tokens()).split(" <eos>"))

    assert len(list(text.held_out())) > 2_000
    assert paragraphs(text.train) & paragraphs(text.held_out) <= {""}
    assert "NOT WikiText-2" in text.description


def test_the_characters_of_a_text_are_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("ab\nba\n" * 50, encoding="utf-8")
    task = tasks.load("tasks.gru_char", "smoke", data_dir=tmp_path).task
    assert task.name == "gru_char"
    text = corpus.read("tinyshakespeare", tmp_path)
    assert "".join([*text.train(), *text.held_out()]) == "ab\nba\n" * 50
    assert len(list(text.train())) == 270


# Streams.


def test_training_streams_hold_every_token_exactly_once_and_each_label_follows_its_input() -> None:
    tokens = np.arange(1, 61, dtype=np.int32)  # 3 streams of 4 windows of 5, nothing left over
    batches = list(islice(batching.streams(tokens, start=0, batch_size=3, window=5), 4))
    labels = np.concatenate([batch.labels for batch in batches], axis=1)
    assert np.array_equal(labels, tokens.reshape(3, 20))
    assert all(np.array_equal(batch.inputs["tokens"], batch.labels - 1) for batch in batches)
    assert [batch.starts_sequence for batch in batches] == [True, False, False, False]


def test_training_drops_less_than_a_window_of_each_stream_and_starts_again() -> None:
    tokens = np.arange(1, 72, dtype=np.int32)  # 3 streams of 23, and 2 tokens more
    batches = list(islice(batching.streams(tokens, start=0, batch_size=3, window=5), 9))
    assert sum(batch.items for batch in batches[:4]) == 60
    assert [number for number, batch in enumerate(batches) if batch.starts_sequence] == [0, 4, 8]
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(batches[:4], batches[4:8], strict=True))


@pytest.mark.parametrize("count", [15, 16, 59, 60, 61, 74, 75, 76])
def test_evaluation_drops_nothing_and_padding_has_weight_0(count: int) -> None:
    tokens = np.arange(1, count + 1, dtype=np.int32)
    batches = list(batching.whole_streams(tokens, start=0, batch_size=3, window=5))
    kept = np.concatenate([batch.labels[batch.weights != 0] for batch in batches])
    assert sorted(kept) == list(tokens)
    assert {batch.labels.shape for batch in batches} == {(3, 5)}
    assert all(batch.items for batch in batches)
    counted = np.concatenate([batch.weights for batch in batches], axis=1) != 0
    inputs = np.concatenate([batch.inputs["tokens"] for batch in batches], axis=1)
    labels = np.concatenate([batch.labels for batch in batches], axis=1)
    assert np.array_equal(inputs[counted], labels[counted] - 1)
    assert [batch.starts_sequence for batch in batches] == [True] + [False] * (len(batches) - 1)


def test_every_backend_gets_int32_arrays_of_one_shape(tmp_path: Path) -> None:
    task = wikitext(tmp_path)

    def form(batch: Batch) -> tuple[object, ...]:
        arrays = batch.inputs["tokens"], batch.labels, batch.weights
        return tuple((array.dtype.name, array.shape, array.flags.c_contiguous) for array in arrays)

    expected = (("int32", (4, 5), True), ("int32", (4, 5), True), ("float32", (4, 5), True))
    assert {form(batch) for batch in [*islice(task.train_batches(0), 20), *task.eval_batches()]} == {expected}


# The measure.


def test_the_unigram_floor_by_hand(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    # In a copy of the text: eos 3, the 3, <unk> 3 (sat, on and itself), cat 1, dog 1, mat 1.
    counts = np.array([3, 3, 3, 1, 1, 1]) * 20 + 1
    p = counts / counts.sum()
    labels = np.array([0, 1, 5, 5])
    evaluation = Evaluation(np.full(4, np.log(7.0)), np.zeros(4, np.int64), labels)
    metrics = task.metrics(evaluation)
    assert metrics["perplexity"] == pytest.approx(7)
    assert metrics["loss"] == pytest.approx(np.log(7))
    assert metrics["unigram_perplexity"] == pytest.approx(1 / (p[0] * p[1] * p[5] ** 2) ** (1 / 4))


def test_a_diverged_model_has_no_finite_perplexity(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    nothing = np.zeros(2, np.int64)
    assert np.isnan(task.metrics(Evaluation(np.array([1.0, np.nan]), nothing, nothing))["perplexity"])
    assert np.isinf(task.metrics(Evaluation(np.array([1e4, 1e4]), nothing, nothing))["perplexity"])


# The specification.


def test_the_hashes_follow_the_text_and_the_sizes(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    first = task.data.sha256, hash_json(describe_task(task))
    assert (replace(task).data.sha256, hash_json(describe_task(replace(task)))) == first
    assert hash_json(describe_task(replace(task, window=4))) != first[1]
    changed = wikitext(tmp_path, valid=WORDS * 7 + WORDS.replace("cat", "mat"))
    assert changed.data.sha256 != first[0]
    renamed = wikitext(tmp_path, train=(WORDS * 20).replace("mat", "max"), valid=(WORDS * 8).replace("mat", "max"))
    assert np.array_equal(renamed.corpus.train, task.corpus.train)
    assert renamed.data.sha256 != first[0]


@pytest.mark.parametrize("name", tasks.PRESETS)
def test_presets_have_the_published_size_where_they_say_so(name: str) -> None:
    task = tasks.load("gru_lm", name).task
    assert task.name == "gru_lm"
    if name in ("standard", "full"):
        assert task.model == GruLmConfig(vocabulary=10_000, embedding=256, hidden=512, layers=2, dropout=0.1)
        assert (task.batch_size, task.window) == (20, 35)
        assert sum(value.size for value in task.init_params(0).values()) == 10_448_656
    assert task.optimizer.learning_rate == 1e-3
    assert task.optimizer.clip_norm == 0.25


def test_initial_parameters_are_a_function_of_the_seed() -> None:
    task = tasks.load("gru_lm", "smoke").task
    first, again, other = task.init_params(3), task.init_params(3), task.init_params(4)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["gru_0/hidden/bias"], other["gru_0/hidden/bias"])
    assert {value.dtype.name for value in first.values()} == {"float32"}
    assert np.abs(first["gru_1/input/kernel"]).max() <= 1 / np.sqrt(128)


def test_the_ladder_meets_carried_state_an_epochs_end_duplicates_and_a_ragged_end() -> None:
    task = tasks.load("gru_lm", "quick").task.for_parity()
    batches = list(islice(task.train_batches(1), 20))
    starts = [number for number, batch in enumerate(batches) if batch.starts_sequence]
    assert starts == [0, 12]
    assert all(len(np.unique(batch.inputs["tokens"])) < batch.inputs["tokens"].size / 2 for batch in batches)
    evaluation = list(task.eval_batches())
    assert len(evaluation) > 5
    assert evaluation[-1].items < task.batch_size * task.window
    assert sum(batch.items for batch in evaluation) == 230
    assert task.model.dropout == 0


# Bad input.


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    assert "training text is empty" in refused(wikitext(tmp_path, train=""))
    assert "held-out text is empty" in refused(wikitext(tmp_path, valid=""))


def test_a_text_shorter_than_one_window_of_every_stream_is_refused(tmp_path: Path) -> None:
    message = refused(wikitext(tmp_path, train=WORDS))
    assert "the training text has 12 tokens: expected at least 20" in message
    message = refused(wikitext(tmp_path, valid="the cat\n"))
    assert "the held-out text has 3 tokens: expected at least 20" in message


def test_a_vocabulary_larger_than_the_text_has_types_is_refused(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    message = refused(replace(task, model=replace(task.model, vocabulary=10_000)))
    assert "a vocabulary of 10,000 is larger than the training text, which has 8 types" in message
    assert "set the vocabulary to 8 or less" in message
    assert len(replace(task, model=replace(task.model, vocabulary=8)).corpus.vocabulary) == 8


@pytest.mark.parametrize("wrong", [-1, 6, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_refused(wrong: int) -> None:
    with pytest.raises(SpecError, match=rf"token id {wrong} at position 2: expected ids in 0..5"):
        corpus.check_ids(np.array([0, 5, wrong], np.int32), 6)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    (tmp_path / "wikitext-2" / "train.txt").write_bytes(b"good line\nSenj\xf5 no\n")
    message = refused(task)
    assert "line 2 is not UTF-8 (byte 0xf5)" in message
    assert "train.txt" in message


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    task = wikitext(tmp_path)
    (tmp_path / "wikitext-2" / "train.txt").write_bytes(gzip.compress(WORDS.encode() * 1000)[:-20])
    assert "complete gzip file" in refused(task)


def test_a_folder_without_the_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    task = tasks.load("gru_lm", "standard", data_dir=tmp_path).task
    with pytest.raises(DataError, match=r"train\.txt"):
        _ = task.data


def test_a_python_without_the_bundled_text_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match="pydoc_data"):
        corpus.read("pydoc", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0: expected a whole number of 1 or more"),
        ({"window": -1}, "window is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"limit": (5,)}, "limit is (5,): expected two numbers of tokens"),
        ({"limit": (5, 0)}, "a limit is 0"),
        ({"source": "bible"}, "source is 'bible': expected one of pydoc, wikitext-2, tinyshakespeare"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    task = wikitext(tmp_path)
    with pytest.raises(SpecError, match=re.escape(said)):
        replace(task, **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": 0}, "layers is 0: expected a whole number of 1 or more"),
        ({"layers": 1001}, "layers is 1001: expected a whole number of 1,000 or less"),
        ({"hidden": -4}, "hidden is -4"),
        ({"embedding": 0}, "embedding is 0"),
        ({"vocabulary": 1}, "vocabulary is 1: expected a whole number of 2 or more"),
        ({"dropout": 1.0}, "dropout is 1.0: expected a finite number >= 0 and < 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"hidden": 50_000}, "parameters: expected 2,000,000,000 or less"),
    ],
)
def test_sizes_that_no_model_can_have_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        replace(GruLmConfig(), **change)


def test_the_bound_counts_the_parameters_that_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr("tasks.gru_lm.check_parameters", counted.append)
    model = GruLmConfig(vocabulary=11, embedding=3, hidden=5, layers=3)
    params = GruLm("pydoc", batch_size=1, window=1, steps=1, model=model).init_params(0)
    assert counted == [sum(value.size for value in params.values())]


@pytest.mark.parametrize(("layers", "on_the_ladder"), [(1, 1), (2, 2), (3, 3), (40, 6)])
def test_the_ladder_has_the_layers_that_were_asked_for(layers: int, on_the_ladder: int) -> None:
    task = tasks.load("gru_lm", "quick").task
    small = replace(task, model=replace(task.model, layers=layers)).for_parity()
    assert small.model.layers == on_the_ladder


def test_the_ladder_clips_where_the_training_clips_and_learns_at_its_rate_unless_that_is_chaotic() -> None:
    task = tasks.load("gru_lm", "quick").task
    assert replace(task, optimizer=replace(task.optimizer, clip_norm=None)).for_parity().optimizer.clip_norm is None
    assert task.for_parity().optimizer == replace(task.optimizer, clip_norm=0.05)
    for asked, expected in ((2e-3, 2e-3), (5.0, 1e-2)):
        changed = replace(task, optimizer=replace(task.optimizer, learning_rate=asked))
        assert changed.for_parity().optimizer.learning_rate == expected


# Texts of the user's own.

LONG = "a line of the text that is long enough to be told from a heading"


def test_a_text_of_the_users_own_is_not_called_wikitext(tmp_path: Path) -> None:
    data = wikitext(tmp_path).data
    assert data.name == "own text"
    assert data.description == (
        "the words of your own text, NOT WikiText-2; 240 training and 96 held-out tokens, a vocabulary of 6"
    )


def test_characters_of_the_users_own_are_not_called_shakespeare(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("ab\nba\n" * 50, encoding="utf-8")
    text = corpus.read("tinyshakespeare", tmp_path)
    assert (text.name, text.is_own) == ("own text", True)
    assert "your own text, character by character, NOT tiny Shakespeare" in text.description


def test_held_out_lines_that_stand_in_the_training_text_are_counted(tmp_path: Path) -> None:
    train = f"{LONG}\n= Heading =\nand another line of at least forty characters\n" + WORDS * 10
    valid = f"{LONG}\n= Heading =\nthis line is new and has more than forty characters\n" + WORDS * 5
    description = wikitext(tmp_path, train=train, valid=valid).data.description
    assert description.endswith("; 1 of 2 held-out lines also appear in the training text")
    assert str(tmp_path) not in description
    one = wikitext(tmp_path, train=f"{LONG}\n{LONG} again\n" * 9, valid=f"{LONG}\n{LONG} again\n" * 3)
    assert corpus.repeated_lines(one.text) == (6, 6)
    assert corpus.repeated_lines(one.text, limit=(3, 200)) == (0, 6)


def test_repeated_lines_are_found_among_characters_too(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(f"{LONG}\n" * 30, encoding="utf-8")
    repeated, held_out = corpus.repeated_lines(corpus.read("tinyshakespeare", tmp_path))
    assert held_out == 3
    assert repeated == held_out


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    inside = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
    path = tmp_path / "text"
    path.write_bytes(f"{inside}\r\nlast".encode())
    assert list(corpus.lines(path)) == [inside, "last"]


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_texts_have_earned_their_names() -> None:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not all((Path(folder) / name).is_dir() for name in ("wikitext-2", "tinyshakespeare")):
        pytest.skip(f"set {DATA_VARIABLE} to a folder that holds wikitext-2/ and tinyshakespeare/")
    for source, repeated in (("wikitext-2", (1, 1_785)), ("tinyshakespeare", (0, 1_488))):
        text = corpus.read(source, Path(folder))
        assert text.name == source
        assert "own" not in text.description
        assert corpus.repeated_lines(text) == repeated, "what the docstring of tasks/corpus.py says"
