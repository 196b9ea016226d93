"""minGPT and its port to Flax, through the pair door: `python docs/examples/mingpt.py`.

minGPT (https://github.com/karpathy/minGPT, `mingpt/model.py` as it was in 2020) is a GPT in PyTorch; minGPT-flax
(https://github.com/brentyi/minGPT-flax, `mingpt/model.py` and `mingpt/trainer.py`) says that it is based on it. Both are
written anew here, small, with the choices that each of them made, the defaults of their libraries included:

                            minGPT                              minGPT-flax
    layer norm's epsilon    1e-5, torch.nn.LayerNorm's default  1e-6, flax.linen.LayerNorm's default
    GELU                    torch.nn.GELU(), which is exact     nn.gelu(approximate=True), tanh
    weight decay            on the kernels of linear layers     on their biases and the positions too: its mask asks for the
                                                                names of modules, and never for that of the weight itself

Dropout and the schedules of the learning rate are left out. The weights are drawn, none of them zero, as after a training: what
multiplies a zero cannot be seen.
"""

import os
import sys
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import linen, traverse_util

from bench.checks.pair import Side, pair
from bench.machine.describe import describe

LAYERS, HEADS, WIDTH, LENGTH, VOCABULARY, BATCH = 2, 4, 64, 32, 65, 8
RATE, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0


# PyTorch.


class TorchBlock(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.proj = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):  # [B, T, C]
        normed = self.ln1(x)
        heads = [
            layer(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        ]
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)  # [B, heads, T, C / heads]
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class TorchGpt(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_emb = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.pos_emb = torch.nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = torch.nn.Sequential(*(TorchBlock() for _ in range(LAYERS)))
        self.ln_f = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):  # [B, T] -> [B, T, vocabulary]
        return self.head(self.ln_f(self.blocks(self.tok_emb(tokens) + self.pos_emb)))


def torch_side():
    model = TorchGpt()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for value in model.parameters():
            value += torch.from_numpy(rng.normal(0, 0.1, value.shape)).float() - value * (value.ndim > 1)
    named = dict(model.named_parameters())
    kernels = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    groups = [
        {"params": [value for name, value in named.items() if (name in kernels) == decays], "weight_decay": decay}
        for decays, decay in ((True, DECAY), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)

    def step(batch):
        tokens, labels = map(torch.from_numpy, batch)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def forward(batch):
        return model(torch.from_numpy(batch[0]))

    def gradients(batch):
        tokens, labels = map(torch.from_numpy, batch)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))

    def params():
        return {name: value.detach() for name, value in named.items()}

    def load(weights):
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    return Side("minGPT", step, params, load, forward, gradients=gradients)


# Flax.


class FlaxBlock(linen.Module):
    epsilon: float
    tanh: bool

    @linen.compact
    def __call__(self, x):  # [B, T, C]
        norm = partial(linen.LayerNorm, epsilon=self.epsilon)
        normed = norm(name="LayerNorm_0")(x)
        heads = [
            linen.Dense(WIDTH, name=name)(normed).reshape(*x.shape[:2], HEADS, -1) for name in ("query", "key", "value")
        ]
        attended = jax.nn.dot_product_attention(*heads, is_causal=True)  # [B, T, heads, C / heads]
        x = x + linen.Dense(WIDTH, name="proj")(attended.reshape(x.shape))
        inner = linen.gelu(linen.Dense(4 * WIDTH, name="up")(norm(name="LayerNorm_1")(x)), approximate=self.tanh)
        return x + linen.Dense(WIDTH, name="down")(inner)


class FlaxGpt(linen.Module):
    epsilon: float
    tanh: bool

    @linen.compact
    def __call__(self, tokens):  # [B, T] -> [B, T, vocabulary]
        positions = self.param("position_embeddings", linen.initializers.zeros, (LENGTH, WIDTH))
        x = linen.Embed(VOCABULARY, WIDTH, name="Embed_0")(tokens) + positions
        for number in range(LAYERS):
            x = FlaxBlock(self.epsilon, self.tanh, name=f"GPTBlock_{number}")(x)
        x = linen.LayerNorm(epsilon=self.epsilon, name="LayerNorm_0")(x)
        return linen.Dense(VOCABULARY, use_bias=False, name="head")(x)


def decayed_by_the_port(path):
    """By the names of the modules around a weight, and not by its own."""
    return not any(word in module.lower() for module in path[:-1] for word in ("embed", "layernorm", "bias"))


def decayed_by_mingpt(path):
    return path[-1] == "kernel"


def flax_side(*, epsilon, tanh, decays):
    model = FlaxGpt(epsilon, tanh)
    transform = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.scale_by_adam(*BETAS),
        optax.add_decayed_weights(
            DECAY, mask=lambda tree: traverse_util.path_aware_map(lambda path, _: decays(path), tree)
        ),
        optax.scale(-RATE),
    )
    state = {"weights": model.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]}

    @jax.jit
    def apply(weights, tokens):
        return model.apply({"params": weights}, tokens)

    @jax.jit
    def differentiate(weights, tokens, labels):
        def loss_function(weights):
            return optax.softmax_cross_entropy_with_integer_labels(apply(weights, tokens), labels).mean()

        return jax.value_and_grad(loss_function)(weights)

    @jax.jit
    def update(weights, optimizer, tokens, labels):
        loss, gradients = differentiate(weights, tokens, labels)
        updates, optimizer = transform.update(gradients, optimizer, weights)
        return loss, optax.apply_updates(weights, updates), optimizer

    def step(batch):
        loss, state["weights"], state["optimizer"] = update(state["weights"], state["optimizer"], *batch)
        return loss

    def load(weights):
        arrays = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
        state["weights"] = traverse_util.unflatten_dict(arrays, sep="/")
        state["optimizer"] = transform.init(state["weights"])

    return Side(
        "minGPT-flax",
        step,
        params=lambda: traverse_util.flatten_dict(state["weights"], sep="/"),
        load=load,
        forward=lambda batch: apply(state["weights"], batch[0]),
        wait=lambda: jax.block_until_ready(state["weights"]),
        gradients=lambda batch: traverse_util.flatten_dict(differentiate(state["weights"], *batch)[1], sep="/"),
    )


def weight_map():
    found = {"tok_emb.weight": "Embed_0/embedding", "pos_emb": "position_embeddings"}
    found |= {
        "ln_f.weight": "LayerNorm_0/scale",
        "ln_f.bias": "LayerNorm_0/bias",
        "head.weight": ("head/kernel", np.transpose),
    }
    for number in range(LAYERS):
        one, other = f"blocks.{number}", f"GPTBlock_{number}"
        for norm in (0, 1):
            found[f"{one}.ln{norm + 1}.weight"] = f"{other}/LayerNorm_{norm}/scale"
            found[f"{one}.ln{norm + 1}.bias"] = f"{other}/LayerNorm_{norm}/bias"
        for name in ("query", "key", "value", "proj", "up", "down"):
            found[f"{one}.{name}.weight"] = (f"{other}/{name}/kernel", np.transpose)
            found[f"{one}.{name}.bias"] = f"{other}/{name}/bias"
    return found


PORTS = {
    "The port as it is": {"epsilon": 1e-6, "tanh": True, "decays": decayed_by_the_port},
    "With minGPT's layer norm": {"epsilon": 1e-5, "tanh": True, "decays": decayed_by_the_port},
    "With minGPT's GELU too": {"epsilon": 1e-5, "tanh": False, "decays": decayed_by_the_port},
    "With minGPT's weight decay too": {"epsilon": 1e-5, "tanh": False, "decays": decayed_by_mingpt},
}


def main(turns):
    machine, libraries = describe(), (torch, jax, flax, optax)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
    print(f"{machine.cpu}, {machine.cores} cores, {versions}\n")
    rng = np.random.default_rng(0)
    windows = rng.integers(0, VOCABULARY, (16, BATCH, LENGTH + 1))
    batches = [(window[:, :-1].copy(), window[:, 1:].copy()) for window in windows]
    for title, choices in PORTS.items():
        sides = torch_side(), flax_side(**choices)
        found = pair(*sides, batches=batches, weights=weight_map(), turns=turns, limit_s=300)
        print(f"{title}:\n{found}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
