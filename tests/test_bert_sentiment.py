"""The BERT task without any framework: configuration, checkpoints, data, generated reviews, metrics, and the spec's hash."""

import gzip
import hashlib
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tasks
from tasks import checkpoint, reviews, sentiment_data
from tasks.bert import BertConfig, fresh, read_config
from tasks.bert_sentiment import BertSentiment, Generated
from tasks.sources import DATA_VARIABLE, OFFLINE_VARIABLE, DataError
from tasks.spec import Array, Batch, Evaluation, SpecError, describe_task, hash_json

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "##s", ".", "very")
SIZES: Mapping[str, Any] = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "vocab_size": len(PIECES),
    "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 10, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "pad_token_id": 0,
}  # fmt: skip


REAL_DATA = os.environ.get(DATA_VARIABLE)


@pytest.fixture(autouse=True)
def _nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (DATA_VARIABLE, OFFLINE_VARIABLE, checkpoint.BERT_VARIABLE):
        monkeypatch.delenv(name, raising=False)


# Configuration.


def test_a_config_json_becomes_sizes() -> None:
    config = read_config(SIZES, origin="config.json")
    assert config == BertConfig(vocabulary=12, hidden=4, layers=2, heads=2, intermediate=8, positions=10)


def test_old_files_leave_fields_out() -> None:
    old = {name: SIZES[name] for name in SIZES if name not in ("model_type", "layer_norm_eps", "pad_token_id")}
    assert read_config(old, origin="config.json") == read_config(SIZES, origin="config.json")


def test_the_classifier_has_its_own_dropout_if_the_file_says_so() -> None:
    assert read_config({**SIZES, "classifier_dropout": 0.3}, origin="x").classifier_dropout == 0.3
    assert read_config({**SIZES, "classifier_dropout": None}, origin="x").classifier_dropout == 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"architectures": ["DistilBertModel"]}, "DistilBertModel"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', expected 'gelu'"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads 3"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"hidden_size": "4"}, "hidden_size is '4'"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"layer_norm_eps": math.nan}, "layer_norm_eps"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"pad_token_id": 12}, "pad_token_id 12 is outside"),
    ],
)
def test_another_architecture_is_an_error_that_names_the_field(change: Mapping[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=re.escape(named)) as caught:
        read_config({**SIZES, **change}, origin="here/config.json")
    assert "\n" not in str(caught.value)
    assert "here/config.json" in str(caught.value)


# Checkpoints.


def stored_tensors(config: BertConfig) -> dict[str, Array]:
    """Values that depend on the position, under the names and layouts of transformers; without a classifier."""
    rng = np.random.default_rng(0)
    shapes = config.shapes()
    return {
        source.name: rng.standard_normal(shapes[name][::-1] if source.transposed else shapes[name]).astype(np.float32)
        for name, source in checkpoint.sources(config).items()
        if not name.startswith("classifier/")
    }


def write_checkpoint(folder: Path, tensors: Mapping[str, Array], **sizes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SIZES, **sizes}))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


CONFIG = read_config(SIZES, origin="config.json")


def test_names_are_those_of_transformers() -> None:
    names = {canonical: source.name for canonical, source in checkpoint.sources(CONFIG).items()}
    assert names["embeddings/word/embedding"] == "embeddings.word_embeddings.weight"
    assert names["embeddings/token_type/embedding"] == "embeddings.token_type_embeddings.weight"
    assert names["embeddings/norm/scale"] == "embeddings.LayerNorm.weight"
    assert names["layer_1/attention/query/kernel"] == "encoder.layer.1.attention.self.query.weight"
    assert names["layer_1/attention/output/bias"] == "encoder.layer.1.attention.output.dense.bias"
    assert names["layer_1/attention_norm/bias"] == "encoder.layer.1.attention.output.LayerNorm.bias"
    assert names["layer_0/intermediate/kernel"] == "encoder.layer.0.intermediate.dense.weight"
    assert names["layer_0/output/kernel"] == "encoder.layer.0.output.dense.weight"
    assert names["layer_0/output_norm/scale"] == "encoder.layer.0.output.LayerNorm.weight"
    assert names["pooler/kernel"] == "pooler.dense.weight"
    assert names["classifier/kernel"] == "classifier.weight"
    assert len(set(names.values())) == len(names) == len(CONFIG.shapes())


def old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_weights_come_under_canonical_names(tmp_path: Path, prefix: str, old: bool) -> None:
    tensors = stored_tensors(CONFIG)
    named = {prefix + (old_name(name) if old else name): value for name, value in tensors.items()}
    extra = {
        "embeddings.position_ids": np.arange(10)[None],
        "cls.seq_relationship.bias": np.zeros(2, np.float32),
        "classifier.weight": np.ones((3, 4), np.float32),
    }
    found, config = checkpoint.open_folder(write_checkpoint(tmp_path / "c", {**named, **extra}))
    params = checkpoint.load(found, config, seed=0)
    assert {name: value.shape for name, value in params.items()} == config.shapes()
    assert all(value.dtype == np.float32 for value in params.values())
    for name, source in checkpoint.sources(config).items():
        if not name.startswith("classifier/"):
            stored = tensors[source.name]
            np.testing.assert_array_equal(params[name], stored.T if source.transposed else stored)


def test_the_classifier_comes_from_the_seed(tmp_path: Path) -> None:
    found, config = checkpoint.open_folder(write_checkpoint(tmp_path / "c", stored_tensors(CONFIG)))
    first, again, other = (checkpoint.load(found, config, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["classifier/kernel"], again["classifier/kernel"])
    assert not np.array_equal(first["classifier/kernel"], other["classifier/kernel"])
    np.testing.assert_array_equal(first["pooler/kernel"], other["pooler/kernel"])
    assert not first["classifier/bias"].any()


def test_fresh_parameters_have_the_declared_spread() -> None:
    config = BertConfig(vocabulary=1000, hidden=64, layers=1, heads=2, intermediate=64, positions=8)
    params = fresh(config, config.shapes(), seed=0)
    assert np.std(params["embeddings/word/embedding"]) == pytest.approx(0.02, rel=0.02)
    assert (params["layer_0/output_norm/scale"] == 1).all()
    assert not params["layer_0/output_norm/bias"].any()


def test_half_precision_is_widened(tmp_path: Path) -> None:
    halves = {name: value.astype(np.float16) for name, value in stored_tensors(CONFIG).items()}
    found, config = checkpoint.open_folder(write_checkpoint(tmp_path / "c", halves))
    params = checkpoint.load(found, config, seed=0)
    np.testing.assert_array_equal(params["pooler/bias"], halves["pooler.dense.bias"].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pooler.dense.weight": None}, "no pooler.dense.weight"),
        (
            {"encoder.layer.2.output.dense.bias": np.zeros(4, np.float32)},
            "unexpected encoder.layer.2.output.dense.bias",
        ),
        ({"pooler.dense.bias": np.zeros(5, np.float32)}, "pooler.dense.bias is [5], config.json makes it [4]"),
        ({"pooler.dense.bias": np.zeros(4, np.int64)}, "pooler.dense.bias is I64"),
        ({"pooler.dense.bias": np.full(4, np.nan, np.float32)}, "pooler.dense.bias holds values that are not finite"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, change: Mapping[str, Array | None], named: str) -> None:
    tensors = {**stored_tensors(CONFIG), **change}
    folder = write_checkpoint(tmp_path / "c", {name: value for name, value in tensors.items() if value is not None})
    found, config = checkpoint.open_folder(folder)
    with pytest.raises(SpecError, match=re.escape(named)) as caught:
        checkpoint.load(found, config, seed=0)
    assert "\n" not in str(caught.value)


def damaged(content: bytes, how: str) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    if how == "truncated":
        return content[:-40]
    if how == "no header":
        return content[:4]
    if how == "empty":
        return b""
    if how == "header longer than the file":
        return struct.pack("<Q", 1 << 20) + content[8:]
    if how == "header of an exabyte":
        return struct.pack("<Q", 1 << 60) + content[8:]
    if how == "a pickle":
        return b"\x80\x04\x95" + content
    if how == "offsets beyond the file":
        header["pooler.dense.bias"]["data_offsets"][1] += 1 << 40
    if how == "overlapping tensors":
        header["pooler.dense.bias"]["data_offsets"] = header["embeddings.LayerNorm.bias"]["data_offsets"]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    "how",
    [
        "truncated", "no header", "empty", "header longer than the file", "header of an exabyte", "a pickle",
        "offsets beyond the file", "overlapping tensors",
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_one_error(tmp_path: Path, how: str) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    path = folder / "model.safetensors"
    path.write_bytes(damaged(path.read_bytes(), how))
    found, config = checkpoint.open_folder(folder)
    with pytest.raises(SpecError, match=re.escape(str(path))) as caught:
        checkpoint.load(found, config, seed=0)
    assert "\n" not in str(caught.value)


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(SpecError, match="pickle and is never read"):
        checkpoint.open_folder(folder)


def test_a_wrong_hash_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    with pytest.raises(SpecError, match="sha256"):
        checkpoint.open_folder(folder, sha256="0" * 64)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"a":' * 100_000])
def test_a_bad_config_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    (folder / "config.json").write_bytes(content)
    with pytest.raises(SpecError, match=r"config\.json"):
        checkpoint.open_folder(folder)


def test_a_vocabulary_larger_than_the_model_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    with (folder / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(SpecError, match=r"13 pieces, but config\.json says vocab_size 12"):
        checkpoint.open_folder(folder)


@pytest.mark.parametrize(
    ("settings", "pieces", "lower"),
    [({"do_lower_case": False}, PIECES, False), ({}, PIECES, True), ({}, (*PIECES[:-1], "Very"), False)],
)
def test_cased_or_uncased(tmp_path: Path, settings: Mapping[str, Any], pieces: tuple[str, ...], lower: bool) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(pieces))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert checkpoint.open_folder(folder)[0].lower_case is lower


def test_the_variable_names_a_folder_or_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    monkeypatch.setenv(checkpoint.BERT_VARIABLE, str(folder))
    assert checkpoint.locate(checkpoint.MINILM)[0].folder == folder
    monkeypatch.setenv(checkpoint.BERT_VARIABLE, "google-bert/bert-base-cased@main")
    with pytest.raises(SpecError, match="40 hexadecimal digits"):
        checkpoint.locate(checkpoint.MINILM)


def test_no_network_and_nothing_cached_is_one_line_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.setattr(checkpoint, "_packaged", lambda: None)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(SpecError) as caught:
        tasks.load("bert_sentiment", "standard")
    message = str(caught.value)
    assert "\n" not in message
    assert "not in the cache" in message
    assert checkpoint.PACKAGE_HINT in message
    assert checkpoint.BERT_VARIABLE in message


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Connection refused\nby peer")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(SpecError, match=r"could not be downloaded \(Connection refused by peer\)"):
        checkpoint.locate(checkpoint.BERT_BASE_UNCASED)


def test_the_cache_of_the_hub_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = write_checkpoint(tmp_path / "c", stored_tensors(CONFIG))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    def cached(repository: str, name: str, *, revision: str) -> str | None:
        assert re.fullmatch("[0-9a-f]{40}", revision)
        return str(folder / name) if (folder / name).exists() else None

    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    model = checkpoint.HubModel("somebody/some-bert", "0" * 40, digest)
    assert checkpoint.locate(model)[0].sha256 == digest


# Sentences.


GOOD = b"sentence\tlabel\na good film . \t1\nbad\t0\n"


def test_sentences_and_labels_are_read() -> None:
    sentences, labels = sentiment_data.parse(GOOD, origin="x")
    assert sentences == ["a good film .", "bad"]
    assert labels.tolist() == [1, 0]
    assert labels.dtype == np.int32


@pytest.mark.parametrize("content", [GOOD.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + GOOD, GOOD.removesuffix(b"\n")])
def test_other_ways_to_end_and_begin_a_file(content: bytes) -> None:
    assert sentiment_data.parse(content, origin="x")[0] == ["a good film .", "bad"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a good film\t1\n", "the first line is 'a good film\\t1', expected the header"),
        (b"", "the first line is ''"),
        (b"sentence\tlabel\n", "no sentence after the header"),
        (GOOD + b"fine\t2\n", "line 4 has the label '2', expected 0 (negative) or 1 (positive)"),
        (GOOD + b"fine\tpositive\n", "line 4 has the label 'positive'"),
        (GOOD + b"fine\t\n", "line 4 has the label ''"),
        (GOOD + b"fine\n", "line 4 has 1 columns"),
        (GOOD + b"fine\t1\t1\n", "line 4 has 3 columns"),
        (GOOD + b"\nfine\t1\n", "line 4 has 1 columns"),
        (GOOD + b"  \t1\n", "line 4 has an empty sentence"),
        (GOOD + b"\xff\t1\n", "not UTF-8 text at byte 38"),
    ],
)
def test_a_bad_row_is_named(content: bytes, named: str) -> None:
    with pytest.raises(DataError, match=re.escape(named)) as caught:
        sentiment_data.parse(content, origin="mine/train.tsv")
    assert str(caught.value).startswith("mine/train.tsv: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["sst2", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_with_two_files_is_a_data_set(tmp_path: Path, inside: str, packed: bool) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    for split in ("train", "dev"):
        path = tmp_path / inside / f"{split}.tsv"
        (path.with_suffix(".tsv.gz").write_bytes(gzip.compress(GOOD)) if packed else path.write_bytes(GOOD))
    read = sentiment_data.read_split("dev", tmp_path)
    assert read.sentences == ["a good film .", "bad"]
    assert not read.is_glue


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.tsv\.gz"):
        sentiment_data.read_split("train", tmp_path)
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(GOOD)[:-12])
    with pytest.raises(DataError, match=r"train\.tsv\.gz: cannot be read"):
        sentiment_data.read_split("train", tmp_path)


def test_the_published_archive_is_read_by_exact_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "SST-2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("SST-2/dev.tsv", GOOD)
    monkeypatch.setattr(sentiment_data, "locate", lambda dataset, file, *, data_dir: path)
    assert sentiment_data.read_split("dev", None).sentences == ["a good film .", "bad"]
    with pytest.raises(DataError, match=r"SST-2/train\.tsv cannot be read"):
        sentiment_data.read_split("train", None)


def test_tokens_are_cut_and_padded() -> None:
    options: dict[str, Any] = {"max_length": 6, "lower_case": True, "strip_accents": True, "split_chinese": True}
    tokens, mask = sentiment_data.tokenize(["A good, film", "bad films very very very bad", "bád"], PIECES, **options)
    cls, sep, unknown = 2, 3, 1
    assert tokens.tolist() == [[cls, 5, 6, unknown, 8, sep], [cls, 7, 8, 9, 11, sep], [cls, 7, sep, 0, 0, 0]]
    assert mask.tolist() == [[1] * 6, [1] * 6, [1, 1, 1, 0, 0, 0]]
    assert tokens.dtype == mask.dtype == np.int32
    with pytest.raises(SpecError, match=re.escape("has no [CLS]")):
        sentiment_data.tokenize(["a"], ("[PAD]", "[UNK]", "[SEP]", "a"), **options)


# Generated reviews.


def rule_label(sentence: str) -> int:
    """The label as the four rules read it from the sentence alone, by other means than the generator's."""
    opinion = r"the \w+ is ([a-z ]+?)"
    for clause in sentence.removesuffix(" .").split(" . "):
        for pattern in (rf".* , but {opinion}", rf"although .* , {opinion}", rf"{opinion} , although .*", opinion):
            if match := re.fullmatch(pattern, clause):
                *words, adjective = match[1].split()
                if adjective in (*reviews.POSITIVE, *reviews.NEGATIVE):
                    negated = any(negation in " ".join(words) for negation in reviews.NEGATIONS)
                    return int((adjective in reviews.POSITIVE) != negated)
    raise AssertionError(f"no opinion in {sentence!r}")


def test_labels_follow_from_the_sentences() -> None:
    made = reviews.reviews(2000, seed=3)
    assert [review.label for review in made] == [rule_label(review.sentence) for review in made]
    assert len({review.sentence for review in made}) == len(made)
    assert made == reviews.reviews(2000, seed=3)
    assert made != reviews.reviews(2000, seed=4)
    assert 0.45 < np.mean([review.label for review in made]) < 0.55


@pytest.mark.slow
def test_a_bag_of_words_does_not_find_the_rules() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    made = reviews.reviews(9000, seed=0)
    labels = [review.label for review in made]
    for words, at_most in ((1, 0.65), (2, 0.8)):
        counts = CountVectorizer(ngram_range=(1, words)).fit_transform([review.sentence for review in made])
        classifier = LogisticRegression(max_iter=2000).fit(counts[:8000], labels[:8000])
        assert classifier.score(counts[8000:], labels[8000:]) < at_most


def test_the_vocabulary_spells_every_review() -> None:
    vocabulary = reviews.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary)
    sentences = [review.sentence for review in reviews.reviews(500, seed=1)]
    tokens, mask = sentiment_data.tokenize(
        sentences, vocabulary, max_length=32, lower_case=True, strip_accents=True, split_chinese=True
    )
    assert not (tokens == vocabulary.index("[UNK]")).any()
    assert mask.sum(axis=1).max() < 32, "nothing is cut"
    assert vocabulary.index("##ly") in tokens


# The task.


def quick() -> BertSentiment:
    task = tasks.load("bert_sentiment", "smoke").task
    assert isinstance(task, BertSentiment)
    return task


def test_batches_have_one_shape_and_cover_the_held_out_set() -> None:
    task = quick()
    batches = list(task.eval_batches())
    assert {batch.inputs["tokens"].shape for batch in batches} == {(task.batch_size, task.max_length)}
    assert sum(batch.items for batch in batches) == 100
    assert batches[-1].items == 4
    for batch in islice(task.train_batches(0), 3):
        assert batch.inputs["tokens"].dtype == batch.inputs["mask"].dtype == batch.labels.dtype == np.int32


def test_tokens_leave_padding_and_repeated_sentences_out() -> None:
    mask = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], np.int32)
    batch = Batch({"tokens": mask, "mask": mask}, np.zeros(3, np.int32), np.array([1, 1, 0], np.float32))
    assert quick().tokens(batch) == 5


def test_training_and_held_out_reviews_differ() -> None:
    task = quick()
    train, _ = task._read
    seen = {row.tobytes() for row in train.train_tokens}
    assert not any(row.tobytes() in seen for row in train.test_tokens)


def test_metrics_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    predictions = np.array([0, 0, 1, 1, 1, 1, 0])
    found = quick().metrics(Evaluation(np.full(7, 0.5), predictions, labels))
    assert found == pytest.approx(
        {
            "accuracy": 5 / 7, "loss": 0.5,
            "precision_negative": 2 / 3, "recall_negative": 2 / 3, "f1_negative": 2 / 3,
            "precision_positive": 3 / 4, "recall_positive": 3 / 4, "f1_positive": 3 / 4,
            "confusion_00": 2, "confusion_01": 1, "confusion_10": 1, "confusion_11": 3,
        }
    )  # fmt: skip
    assert all(isinstance(value, float) for value in found.values())


def test_a_class_never_predicted_has_precision_zero() -> None:
    found = quick().metrics(Evaluation(np.zeros(2), np.array([1, 1]), np.array([0, 1])))
    assert (found["precision_negative"], found["recall_negative"], found["f1_negative"]) == (0, 0, 0)
    assert (found["precision_positive"], found["recall_positive"]) == (0.5, 1)


def test_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(2, size=(2, 200))
    found = quick().metrics(Evaluation(np.zeros(200), predictions, labels))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predictions)
    for i, name in enumerate(("negative", "positive")):
        values = [found[f"{metric}_{name}"] for metric in ("precision", "recall", "f1")]
        assert values == pytest.approx([precision[i], recall[i], f1[i]])
    counts = [[found[f"confusion_{i}{j}"] for j in (0, 1)] for i in (0, 1)]
    assert counts == confusion_matrix(labels, predictions).tolist()


def test_a_length_beyond_the_positions_is_an_error() -> None:
    task = quick()
    with pytest.raises(SpecError, match="max_length 40: the model has 32 positions"):
        replace(task, max_length=40)


def spec_hash(task: BertSentiment) -> str:
    return hash_json(describe_task(task))


def with_checkpoint(folder: Path, data_dir: Path) -> BertSentiment:
    found, config = checkpoint.open_folder(folder)
    sizes: dict[str, Any] = {"model": config, "max_length": 8, "batch_size": 2}
    return replace(quick(), checkpoint=found, generated=None, data_dir=data_dir, **sizes)


def test_the_spec_hash_covers_weights_vocabulary_and_data_but_no_path(tmp_path: Path) -> None:
    tensors = stored_tensors(CONFIG)
    for name in ("data", "moved"):
        (tmp_path / name).mkdir()
        for split in ("train", "dev"):
            (tmp_path / name / f"{split}.tsv").write_bytes(GOOD)
    one = spec_hash(with_checkpoint(write_checkpoint(tmp_path / "one", tensors), tmp_path / "data"))
    assert spec_hash(with_checkpoint(write_checkpoint(tmp_path / "two", tensors), tmp_path / "moved")) == one

    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"] + 1
    assert spec_hash(with_checkpoint(write_checkpoint(tmp_path / "other", tensors), tmp_path / "data")) != one
    (tmp_path / "data" / "dev.tsv").write_bytes(GOOD.replace(b"bad", b"good"))
    assert spec_hash(with_checkpoint(tmp_path / "one", tmp_path / "data")) != one


@pytest.mark.parametrize("name", ["smoke", "quick"])
@pytest.mark.slow
def test_presets_without_a_download_are_labelled_as_generated(name: str) -> None:
    preset = tasks.load("bert_sentiment", name)
    assert "GENERATED" in preset.task.data.description
    assert preset.task.optimizer.decay_steps == preset.task.train_steps
    params = preset.task.init_params(0)
    assert {key: value.shape for key, value in params.items()} == preset.task.model.shapes()


def test_the_task_of_the_ladder_has_what_the_ladder_needs() -> None:
    task = quick().for_parity()
    batch = next(task.train_batches(0))
    assert (batch.inputs["mask"] == 0).any(), "padding"
    assert list(task.eval_batches())[-1].items < task.batch_size, "a last batch that is not full"
    assert task.optimizer.warmup_steps < 20 < task.train_steps
    assert task.model.hidden_dropout == task.model.attention_dropout == task.model.classifier_dropout == 0


# Sizes that no task can have.


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(SpecError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": 0}, "layers is 0: expected a whole number of 1 or more"),
        ({"layers": 1001}, "layers is 1001: expected a whole number of 1,000 or less"),
        ({"hidden": 0}, "hidden is 0"),
        ({"heads": 3}, "hidden is 32, not a multiple of heads, 3"),
        ({"intermediate": 10**7}, "intermediate is 10000000: expected a whole number of 1,000,000 or less"),
        ({"positions": 2.0}, "positions is 2.0"),
        ({"pad_token": 200}, "pad_token is 200: expected a whole number of 1"),
        ({"hidden_dropout": 1.0}, "hidden_dropout is 1.0: expected a finite number >= 0 and < 1"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"classifier_dropout": math.nan}, "classifier_dropout is nan"),
        ({"layer_norm_eps": math.inf}, "layer_norm_eps is inf"),
        ({"initializer_range": -0.02}, "initializer_range is -0.02"),
        ({"hidden": 32_000, "intermediate": 128_000}, "parameters: expected 2,000,000,000 or less"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: replace(quick().model, **change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"train_steps": 0}, "train_steps is 0"),
        ({"max_length": 2}, "max_length 2: the model has 32 positions"),
        ({"max_length": 16.5}, "max_length is 16.5"),
    ],
)
def test_a_task_that_cannot_be_trained_is_refused(change: dict[str, Any], said: str) -> None:
    assert said in refused(lambda: replace(quick(), **change))


@pytest.mark.parametrize("sizes", [{"train": 0}, {"held_out": -1}, {"train": 10**9}, {"seed": -1}])
def test_a_number_of_reviews_that_cannot_be_generated_is_refused(sizes: dict[str, int]) -> None:
    assert next(iter(sizes)) in refused(lambda: Generated(**{"train": 10, "held_out": 10, **sizes}))


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    assert "batch_size is 257: larger than the training set of 256 sentences; set it to 256 or less" in refused(
        lambda: replace(quick(), batch_size=257).data
    )


def test_a_vocabulary_with_fewer_places_than_pieces_is_refused_and_a_padded_one_is_not() -> None:
    task, pieces = quick(), len(reviews.vocabulary())
    assert f"vocabulary is {pieces - 1}: expected {pieces} or more" in refused(
        lambda: replace(task, model=replace(task.model, vocabulary=pieces - 1))
    )
    padded = replace(task, model=replace(task.model, vocabulary=pieces + 7))
    assert padded.init_params(0)["embeddings/word/embedding"].shape == (pieces + 7, 32)
    np.testing.assert_array_equal(
        next(padded.train_batches(0)).inputs["tokens"], next(task.train_batches(0)).inputs["tokens"]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": 8}, "hidden is 8, but the weights of weights with sha256"),
        ({"heads": 1}, "heads is 1"),
        ({"layers": 1}, "layers is 1"),
        ({"positions": 9}, "positions is 9"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
    ],
)
def test_sizes_that_a_checkpoint_does_not_have_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    task = with_checkpoint(write_checkpoint(tmp_path / "c", stored_tensors(CONFIG)), tmp_path)
    message = refused(lambda: replace(task, model=replace(task.model, **change)))
    assert said in message
    assert "only hidden_dropout, attention_dropout, classifier_dropout, initializer_range can be chosen" in message
    replace(task, model=replace(task.model, hidden_dropout=0.0, classifier_dropout=0.5))


def test_the_ladder_has_the_structure_that_was_asked_for() -> None:
    task = quick()
    small = replace(task, model=replace(task.model, layers=6, heads=1, layer_norm_eps=1e-3)).for_parity()
    assert (small.model.layers, small.model.heads, small.model.layer_norm_eps) == (2, 1, 1e-3)
    plain = replace(task.optimizer, clip_norm=None, weight_decay=0.0, beta1=0.5)
    optimizer = replace(task, optimizer=plain).for_parity().optimizer
    assert (optimizer.clip_norm, optimizer.weight_decay, optimizer.beta1) == (None, 0.0, 0.5)


# Lines, and numbers of pieces.

ODD = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e")
"""At each of these, str.splitlines ends a line; each is a piece of some real vocabulary."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_piece_may_be_any_character_but_a_line_feed(tmp_path: Path, end: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(end.join([*PIECES, *ODD, "", "last"]).encode())
    assert checkpoint.read_vocabulary(path) == [*PIECES, *ODD, "", "last"]
    path.write_bytes(path.read_bytes() + end.encode())
    assert checkpoint.read_vocabulary(path) == [*PIECES, *ODD, "", "last"]


@pytest.mark.parametrize("padding", [0, 3])
def test_a_sound_checkpoint_with_such_pieces_is_read_and_no_number_shifts(tmp_path: Path, padding: int) -> None:
    pieces = (*PIECES[:5], *ODD, *PIECES[5:])
    config = replace(CONFIG, vocabulary=len(pieces) + padding)
    folder = write_checkpoint(tmp_path / "c", stored_tensors(config), vocab_size=config.vocabulary)
    (folder / "vocab.txt").write_bytes("\n".join([*pieces, ""]).encode())
    found, _ = checkpoint.open_folder(folder)
    tokens, _ = sentiment_data.tokenize(
        ["very good film"], found.vocabulary_path,
        max_length=5, lower_case=True, strip_accents=True, split_chinese=True,
    )  # fmt: skip
    assert [pieces[number] for number in tokens[0]] == ["[CLS]", "very", "good", "film", "[SEP]"]


def test_a_sentence_may_hold_any_character_but_a_line_feed() -> None:
    sentence = f"a{'b'.join(ODD)}c\rd"
    sentences, labels = sentiment_data.parse(f"sentence\tlabel\n{sentence}\t1\n".encode(), origin="x")
    assert (sentences, labels.tolist()) == ([sentence], [1])


# Data under another's name.


def own_sentences(folder: Path, *, train: bytes, dev: bytes) -> str:
    """The description of the user's own two files."""
    for name, content in (("train", train), ("dev", dev)):
        (folder / f"{name}.tsv").write_bytes(content)
    data = replace(quick(), generated=None, data_dir=folder, batch_size=1).data
    assert data.name == "own sentences"
    return data.description


def test_held_out_sentences_that_stand_in_the_training_set_are_counted(tmp_path: Path) -> None:
    fresh = b"sentence\tlabel\nnew\t1\nfilm\t1\n"
    counts = "your train.tsv and dev.tsv; 2 training and 2 held-out sentences"
    start = "; starting from random weights"
    assert own_sentences(tmp_path, train=GOOD, dev=fresh) == counts + start
    one = own_sentences(tmp_path, train=GOOD, dev=fresh.replace(b"film\t1", b" a good film .\t0"))
    assert one == f"{counts}; 1 of 2 held-out sentences also appear in the training set{start}"
    assert "2 of 2 held-out" in own_sentences(tmp_path, train=GOOD, dev=GOOD)


@pytest.mark.real_data
def test_the_real_sentences_have_earned_their_name_and_none_that_is_held_out_is_trained_on() -> None:
    folder = REAL_DATA
    if not folder or not (Path(folder) / "sst2").is_dir():
        pytest.skip("set FRAMEWORK_BENCH_DATA to a folder that holds sst2/ to read the real files")
    train, dev = (sentiment_data.read_split(split, Path(folder)) for split in ("train", "dev"))
    assert train.is_glue
    assert dev.is_glue
    assert not set(train.sentences) & set(dev.sentences), "what the docstring of tasks/bert_sentiment.py says"
