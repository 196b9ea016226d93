"""BERT of tasks/bert.py in PyTorch: transformers' BertForSequenceClassification, the implementation that people run.

Needs: transformers. Attention is torch's scaled_dot_product_attention.
"""

from collections.abc import Mapping

import numpy as np
import torch

from backends.api import Unsupported
from backends.pytorch.models import Leaf, Model, State
from tasks.bert import CLASSES, BertConfig
from tasks.checkpoint import sources

try:
    import transformers
except ImportError as error:
    raise Unsupported(
        "BERT on PyTorch is transformers' BertForSequenceClassification; add it with: pip install transformers"
    ) from error


class Bert(Model):
    """transformers' module, and where each canonical parameter lies in it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.net = transformers.BertForSequenceClassification(transformers_config(config))
        # A constant that transformers makes with the weights and no checkpoint holds, here on whatever device those are.
        embeddings = self.net.bert.embeddings
        embeddings.position_ids = torch.arange(config.positions, device="cpu").expand((1, -1))
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)
        self.layout = {}
        for name, source in sources(config).items():
            prefix = "net" if name.startswith("classifier/") else "net.bert"
            convert = np.transpose if source.transposed else np.asarray  # [in, out] <-> [out, in]
            self.layout[name] = Leaf(f"{prefix}.{source.name}", convert, convert)

    def forward(self, inputs: Mapping[str, torch.Tensor], state: State) -> tuple[torch.Tensor, State]:
        # A mask of four axes is taken as it is; one of two would be asked in every step whether it hides anything, and a GPU
        # would be waited for.
        visible = inputs["mask"][:, None, None, :] == 1  # [B, 1, 1, T]
        return self.net(input_ids=inputs["tokens"], attention_mask=visible).logits, state  # [B, 2]


def transformers_config(config: BertConfig) -> transformers.BertConfig:
    """The same sizes and constants in transformers' words."""
    return transformers.BertConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate,
        hidden_act="gelu",
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        classifier_dropout=config.classifier_dropout,
        max_position_embeddings=config.positions,
        type_vocab_size=config.token_types,
        initializer_range=config.initializer_range,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=config.pad_token,
        num_labels=CLASSES,
        attn_implementation="sdpa",
    )


build = Bert
