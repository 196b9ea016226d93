"""The GRU language model's training loop as a PyTorch user writes it."""

import torch
from torch import nn

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
sizes, batch_size = preset.task.model, batches[0].labels.shape[0]
torch.manual_seed(0)


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.embedding)
        self.gru = nn.GRU(sizes.embedding, sizes.hidden, sizes.layers, dropout=sizes.dropout, batch_first=True)
        self.output = nn.Linear(sizes.hidden, sizes.vocabulary)

    def forward(self, tokens: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, hidden = self.gru(self.embedding(tokens), hidden)
        return self.output(features), hidden


model = LanguageModel()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
loss_function = nn.CrossEntropyLoss()
hidden = torch.zeros(sizes.layers, batch_size, sizes.hidden)


def step(batch: tuple) -> None:
    global hidden
    tokens, labels = map(torch.from_numpy, batch)
    optimizer.zero_grad()
    logits, hidden = model(tokens, hidden.detach())
    loss = loss_function(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), preset.task.optimizer.clip_norm)
    optimizer.step()


pairs = [(batch.inputs["tokens"], batch.labels.astype("int64")) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=lambda: None)
