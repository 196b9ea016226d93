"""The fine-tuning loop as a user of transformers writes it in PyTorch."""

import torch
import transformers

from backends.pytorch.bert import transformers_config
from bench.checks.handwritten.window import preset_and_batches, print_step_seconds

preset, batches = preset_and_batches()
spec = preset.task.optimizer
torch.manual_seed(0)
model = transformers.BertForSequenceClassification(transformers_config(preset.task.model)).train()
matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
schedule = transformers.get_linear_schedule_with_warmup(optimizer, spec.warmup_steps, spec.decay_steps)


def step(batch: tuple) -> None:
    tokens, mask, labels = map(torch.from_numpy, batch)
    optimizer.zero_grad()
    model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip_norm)
    optimizer.step()
    schedule.step()


examples = [(batch.inputs["tokens"], batch.inputs["mask"], batch.labels.astype("int64")) for batch in batches]
print_step_seconds(step, examples, preset=preset, wait=lambda: None)
