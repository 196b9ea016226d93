"""BERT for the classification of sentences: its sizes, its parameters by name and shape, and where it starts from.

Devlin, Chang, Lee & Toutanova, 2019, https://arxiv.org/abs/1810.04805; the layer norm comes after each residual sum, as in
"Attention is all you need" (https://arxiv.org/abs/1706.03762). Shapes: B sentences, T tokens, H hidden, A heads of D = H / A,
I intermediate. With x int[B, T] the tokens and m in {0, 1}[B, T] the mask, 0 at padding:

    LN(u) = scale * (u - mean(u)) / sqrt(var(u) + eps) + bias           over H; var is the mean of squared deviations
    h = dropout(LN(word[x] + position[0..T-1] + token_type[0]))         [B, T, H]

    in each layer, with q, k, v = h W + b, split into heads             [B, A, T, D]
    s = q k^T / sqrt(D),  s = -infinity where the key's m is 0          [B, A, T, T]
    a = concat(dropout(softmax(s)) v) W_o + b_o                         [B, T, H]
    h = LN(h + dropout(a))
    f = gelu(h W_1 + b_1) W_2 + b_2                                     [B, T, I] inside, then [B, T, H]
    h = LN(h + dropout(f))

    p = tanh(h[:, 0] W_p + b_p)                                         [B, H], the pooler on the token [CLS]
    z = dropout(p) W_c + b_c                                            [B, 2], logits

    gelu(u) = u (1 + erf(u / sqrt(2))) / 2                              exact, not the tanh approximation; https://arxiv.org/abs/1606.08415

A padded position has weight exactly 0 in every softmax, so it changes nothing at any other position. Every sentence is the
first of its pair: token type 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.spec import MAX_LAYERS, Array, DropoutSite, Params, SpecError, check_parameters, check_real, check_whole

CLASSES = 2
LOUD = 3.0  # factor on what a layer adds, so that it counts beside what it is added to with the small weights of the ladder
LARGEST_SIZE = 1_000_000  # of any one dimension in a config.json; beyond it the file is damaged or hostile


@dataclass(frozen=True)
class BertConfig:
    """Sizes and constants of one BERT; its type selects the model in a backend."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    token_types: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    initializer_range: float = 0.02  # standard deviation of fresh matrices
    pad_token: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "hidden", "heads", "intermediate", "positions", "token_types"):
            check_whole(name, getattr(self, name), most=LARGEST_SIZE)
        check_whole("layers", self.layers, most=MAX_LAYERS)
        check_whole("pad_token", self.pad_token, least=0, most=self.vocabulary - 1)
        if self.hidden % self.heads:
            raise SpecError(
                f"hidden is {self.hidden:,}, not a multiple of heads, {self.heads:,}: expected {self.heads:,} heads of one "
                "size; change one of the two"
            )
        check_real("layer_norm_eps", self.layer_norm_eps, least=0, below=1)
        for name in ("hidden_dropout", "attention_dropout", "classifier_dropout"):
            check_real(name, getattr(self, name), least=0, below=1)
        check_real("initializer_range", self.initializer_range, least=0)
        check_parameters(sum(map(math.prod, self.shapes().values())))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical parameter name -> shape; kernels are [in, out]."""
        hidden, intermediate = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings/word/embedding": (self.vocabulary, hidden),
            "embeddings/position/embedding": (self.positions, hidden),
            "embeddings/token_type/embedding": (self.token_types, hidden),
            **_norm("embeddings/norm", hidden),
        }
        for i in range(self.layers):
            for name in ("query", "key", "value", "output"):
                shapes |= _dense(f"layer_{i}/attention/{name}", hidden, hidden)
            shapes |= _norm(f"layer_{i}/attention_norm", hidden)
            shapes |= _dense(f"layer_{i}/intermediate", hidden, intermediate)
            shapes |= _dense(f"layer_{i}/output", intermediate, hidden)
            shapes |= _norm(f"layer_{i}/output_norm", hidden)
        return shapes | _dense("pooler", hidden, hidden) | _dense("classifier", hidden, CLASSES)


def _dense(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (rows, columns), f"{name}/bias": (columns,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def fresh(config: BertConfig, names: Mapping[str, tuple[int, ...]], *, seed: int) -> dict[str, Array]:
    """float32 parameters of these names and shapes: matrices from N(0, initializer_range^2), scales 1, biases 0."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for name, shape in names.items():
        if len(shape) >= 2:
            values[name] = (config.initializer_range * rng.standard_normal(shape)).astype(np.float32)
        else:
            values[name] = np.full(shape, 1.0 if name.endswith("/scale") else 0.0, np.float32)
    return values


def dropout_sites(config: BertConfig, params: Params) -> list[DropoutSite]:
    """The five kinds of places of the equations above, each with weights that leave it alone with its rate.

    hidden_dropout has three of them, and what is 0 stays 0 under dropout: h behind an embedding norm without scale and bias, a
    and f behind projections without weights. All layers have the weights of layer 0, and what they add to h counts beside h,
    so that masks which are the same in every layer push the loss the same way and show.
    """
    layers = [f"layer_{i}" for i in range(config.layers)]
    alike = {
        name: params[name.replace(name.partition("/")[0], "layer_0") if name.startswith("layer_") else name]
        for name in params
    }

    def scaled(**factors: float) -> Params:
        """`alike` with the weights behind an embedding, an attention or a feed-forward network multiplied."""
        modules = {"embeddings/norm": factors.get("embeddings", 1.0)}
        modules |= {f"{layer}/attention/output": factors.get("attention", 1.0) for layer in layers}
        modules |= {f"{layer}/output": factors.get("feed_forward", 1.0) for layer in layers}
        return {name: value * np.float32(modules.get(name.rpartition("/")[0], 1.0)) for name, value in alike.items()}

    return [
        DropoutSite("embeddings", "hidden_dropout", scaled(attention=0, feed_forward=0)),
        DropoutSite("attention output", "hidden_dropout", scaled(embeddings=0, attention=LOUD, feed_forward=0)),
        DropoutSite("feed-forward output", "hidden_dropout", scaled(embeddings=0, attention=0, feed_forward=LOUD)),
        DropoutSite("attention probabilities", "attention_dropout", scaled(attention=LOUD)),
        DropoutSite("classifier", "classifier_dropout", alike),
    ]


def read_config(fields: Mapping[str, Any], *, origin: str) -> BertConfig:
    """A configuration from the content of a `config.json`; SpecError names the field that is not BERT's.

    Fields that old files leave out have BERT's own values: layer_norm_eps 1e-12, pad_token_id 0, absolute positions.
    """
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    for name, value in expected.items():
        if fields.get(name, value) != value:
            raise SpecError(
                f"{origin}: {name} is {fields[name]!r}, expected {value!r}; "
                "use a checkpoint of the original BERT architecture (encoder, exact GELU, absolute positions)"
            )
    for architecture in fields.get("architectures") or ():
        if not str(architecture).startswith("Bert"):
            raise SpecError(
                f"{origin}: architectures has {architecture!r}; use a checkpoint of one of the Bert classes"
            )

    def size(name: str, default: int | None = None, smallest: int = 1) -> int:
        value = fields.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= LARGEST_SIZE:
            raise SpecError(f"{origin}: {name} is {value!r}, expected a whole number in {smallest}..{LARGEST_SIZE:,}")
        return value

    def number(name: str, default: float, below: float) -> float:
        value = fields.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < below:
            raise SpecError(f"{origin}: {name} is {value!r}, expected a number >= 0 and < {below:g}")
        return float(value)

    hidden_dropout = number("hidden_dropout_prob", 0.1, 1)
    classifier_dropout = hidden_dropout
    if fields.get("classifier_dropout") is not None:
        classifier_dropout = number("classifier_dropout", hidden_dropout, 1)
    vocabulary, pad_token = size("vocab_size"), size("pad_token_id", 0, smallest=0)
    if pad_token >= vocabulary:
        raise SpecError(f"{origin}: pad_token_id {pad_token} is outside the vocabulary of {vocabulary}")
    hidden, heads = size("hidden_size"), size("num_attention_heads")
    if hidden % heads:
        raise SpecError(
            f"{origin}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; "
            "the file is damaged or does not describe a BERT"
        )
    return BertConfig(
        vocabulary=vocabulary,
        hidden=hidden,
        layers=size("num_hidden_layers"),
        heads=heads,
        intermediate=size("intermediate_size"),
        positions=size("max_position_embeddings"),
        token_types=size("type_vocab_size", 2),
        layer_norm_eps=number("layer_norm_eps", 1e-12, 1),
        hidden_dropout=hidden_dropout,
        attention_dropout=number("attention_probs_dropout_prob", 0.1, 1),
        classifier_dropout=classifier_dropout,
        initializer_range=number("initializer_range", 0.02, 1),
        pad_token=pad_token,
    )
