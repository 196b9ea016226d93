"""The MLP's training loop as a PyTorch user writes it."""

import torch
from torch import nn

from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
loss_function = nn.CrossEntropyLoss()


def step(batch: tuple) -> None:
    image, label = torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
    optimizer.zero_grad()
    loss = loss_function(model(image), label)
    loss.backward()
    optimizer.step()


pairs = [(batch.inputs["image"], batch.labels.astype("int64")) for batch in batches]
print_step_seconds(step, pairs, preset=preset, wait=lambda: None)
