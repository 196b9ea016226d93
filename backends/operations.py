"""What the operations of a profile do, in words that are the same for every framework.

A profiler calls a matrix product `aten::addmm`, `MatMul` or `dot.3`: operations are told apart by the words in their names.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

OTHER = "other"

TOLD_BY: Sequence[tuple[str, str]] = (
    ("optimizer", "adam adamw foreach optimizer"),
    (
        "matrix products",
        "addmm attention baddbmm bmm conv convolution dot einsum gemm linear mat matmul mm mv sgemm xmma",
    ),
    ("random numbers", "bernoulli bit bits distribution dropout normal random rng shift threefry uniform xor"),
    ("reductions", "argmax cross entropy logsumexp mean moments nll norm reduce softmax sum variance"),
    ("copies and lookups", "embedding gather index scatter"),
    (
        "elementwise",
        "abs add and cast compare convert divide div elementwise equal erf erfc exp exponential gelu greater less log "
        "logistic masked max maximum min minimum mul multiply neg negate negative not or pow power real reciprocal relu "
        "rsqrt rsub select sigmoid sign sqrt square sub subtract tanh threshold where",
    ),
    (
        "copies and lookups",
        "bitcast broadcast cat clone concat concatenate contiguous copy fill memcpy memset pack pad reshape slice split "
        "stack tile transpose unpack zero zeros",
    ),
)
"""(kind, words that tell it): the first kind of which a name has a word is the operation's."""

WORDS = tuple((kind, frozenset(words.split())) for kind, words in TOLD_BY)

NAMED = {"BiasAddGrad": "reductions"}
"""Operations whose names mislead."""

KINDS: tuple[str, ...] = (*dict.fromkeys(kind for kind, _ in WORDS), OTHER)
"""The kinds of operations."""


class Operation(NamedTuple):
    """Something that ran while a profiler watched, by the profiler's own clock.

    Of one thread, or one stream of a GPU, two do not overlap, or one lies within the other.
    """

    name: str  # the framework's own
    kind: str  # one of KINDS
    start_s: float
    end_s: float
    thread: str


def kind_of(name: str, scope: str = "") -> str:
    """The kind of an operation with this name; `scope` is where in the program it stands, and may say that it is an update."""
    found = set(_words(name))
    if set(_words(scope)) & WORDS[0][1]:
        return WORDS[0][0]
    return NAMED.get(name) or next((kind for kind, words in WORDS if words & found), OTHER)


INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]*)\"", re.MULTILINE)


def sources(program: str) -> dict[str, str]:
    """Instruction -> the framework's operation that it was made of, from the text of a program that XLA has compiled."""
    return dict(INSTRUCTION.findall(program))


def kind_of_instruction(name: str, sources: Mapping[str, str]) -> str:
    """By XLA's own name of an instruction, or else by what it was made of; `sources` also tells the optimizer's."""
    scope, _, made_of = sources.get(name, "").rpartition("/")
    by_name = kind_of(name, scope)
    return kind_of(made_of, scope) if by_name == OTHER else by_name


def _words(name: str) -> list[str]:
    """The words of `BatchMatMulV2`, `aten::native_layer_norm` and `broadcast_add_fusion.3`, in small letters."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
