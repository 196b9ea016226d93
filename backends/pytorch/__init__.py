"""The PyTorch backend: `torch.nn` modules and the fused AdamW of `torch.optim`.

Needs: torch; BERT also transformers. What is here is read without either.
"""

from collections.abc import Mapping

from backends.api import Entry

ENTRY = Entry(
    module="backends.pytorch.session",
    needs=("torch",),
    extra="pytorch",
    distributions=("torch", "transformers"),
)

MODES: Mapping[str, str] = {
    "default": "eager: every operation runs as Python reaches it (https://docs.pytorch.org/docs/stable/nn.html)",
    "compile": (
        "torch.compile of the module; loss and optimizer stay eager, and so do nn.GRU and what follows it, which torch.compile "
        "does not take over (https://docs.pytorch.org/docs/stable/generated/torch.compile.html)"
    ),
    "cuda-graph": (
        "on a GPU, all kernels of a training step recorded once and started together "
        "(https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture)"
    ),
    "flush-denormal": (
        "figures below 1e-38 become 0, for which a CPU needs far longer than for others "
        "(https://docs.pytorch.org/docs/stable/generated/torch.set_flush_denormal.html)"
    ),
    "batch-sampler": (
        "for `--measure loading`: a DataLoader that fetches a batch at once, by the indices of a BatchSampler "
        "(https://docs.pytorch.org/docs/stable/data.html#disable-automatic-batching)"
    ),
    "workers": (
        "for `--measure loading`: a DataLoader with two worker processes "
        "(https://docs.pytorch.org/docs/stable/data.html#multi-process-data-loading)"
    ),
}

GPU_ONLY = ("cuda-graph",)
"""Modes of a GPU alone: the proof in double precision, which is a CPU's, is of the step that the graph was recorded from."""

TRAINING_ONLY = ("cuda-graph",)
"""Modes of the training step: `predict` is the same without them."""

OF_SEVERAL_PROCESSES = ("flush-denormal",)
"""Modes that were shown to compute the same in several processes, beside those of every backend; no other goes with them."""

TUNED: Mapping[str, Mapping[str, str]] = {"cpu": {"bert_sentiment": "trim"}, "gpu": {"mnist_mlp": "cuda-graph"}}
