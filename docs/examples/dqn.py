"""The Q-network and the update of CleanRL's DQN, in PyTorch and in JAX, through the pair door: `python docs/examples/dqn.py`.

CleanRL (https://github.com/vwxyzjn/cleanrl) has the same algorithm twice: `cleanrl/dqn.py` in PyTorch, `cleanrl/dqn_jax.py` in
Flax and optax. Written anew here: layers of 120 and 84 with ReLU, the squared error to the target network's best action, Adam
with a learning rate of 2.5e-4, batches of 128, and a copy of the weights to the target network after every 50 updates. The
batches are random transitions of the size of CartPole's. As there, PyTorch gets tensors and JAX NumPy's arrays.
"""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen, traverse_util

from bench.checks.pair import Side, pair
from bench.machine.describe import describe

OBSERVATION, ACTIONS, BATCH = 4, 2, 128
GAMMA, RATE, TARGET_EVERY = 0.99, 2.5e-4, 50


# PyTorch.


class TorchDqn:
    def __init__(self):
        self.network, self.target = self.new(), self.new()
        self.target.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        self.updates = 0

    @staticmethod
    def new():
        return torch.nn.Sequential(
            torch.nn.Linear(OBSERVATION, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(),
            torch.nn.Linear(84, ACTIONS),
        )  # fmt: skip

    def step(self, batch):
        observation, action, reward, following, done = batch
        with torch.no_grad():
            wanted = reward + GAMMA * (1 - done) * self.target(following).amax(1)
        chosen = self.network(observation).gather(1, action[:, None])[:, 0]
        loss = torch.nn.functional.mse_loss(chosen, wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % TARGET_EVERY == 0:
            self.target.load_state_dict(self.network.state_dict())
        return loss.detach()

    @torch.no_grad()
    def forward(self, batch):
        return self.network(batch[0])

    def params(self):
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def load(self, weights):
        self.network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        self.target.load_state_dict(self.network.state_dict())


# JAX.

network = linen.Sequential([linen.Dense(120), linen.relu, linen.Dense(84), linen.relu, linen.Dense(ACTIONS)])
transform = optax.adam(RATE)


@jax.jit
def update(weights, target, optimizer, batch):
    observation, action, reward, following, done = batch
    wanted = reward + GAMMA * (1 - done) * network.apply(target, following).max(-1)

    def loss_function(weights):
        chosen = jnp.take_along_axis(network.apply(weights, observation), action[:, None], 1)[:, 0]
        return jnp.mean((chosen - wanted) ** 2)

    loss, gradients = jax.value_and_grad(loss_function)(weights)
    updates, optimizer = transform.update(gradients, optimizer)
    return loss, optax.apply_updates(weights, updates), optimizer


class JaxDqn:
    def __init__(self):
        self.weights = self.target = network.init(jax.random.key(0), jnp.zeros((1, OBSERVATION)))

    def step(self, batch):
        loss, self.weights, self.optimizer = update(self.weights, self.target, self.optimizer, batch)
        self.updates += 1
        if self.updates % TARGET_EVERY == 0:
            self.target = self.weights
        return loss

    def forward(self, batch):
        return network.apply(self.weights, batch[0])

    def params(self):
        return traverse_util.flatten_dict(self.weights["params"], sep="/")

    def load(self, weights):
        nested = traverse_util.unflatten_dict({name: jnp.float32(value) for name, value in weights.items()}, sep="/")
        self.weights = self.target = {"params": nested}
        self.optimizer, self.updates = transform.init(self.weights), 0

    def wait(self):
        jax.block_until_ready(self.weights)


def transitions(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        observation, following = rng.normal(size=(2, BATCH, OBSERVATION)).astype(np.float32)
        done = (rng.uniform(size=BATCH) < 0.1).astype(np.float32)
        yield observation, rng.integers(0, ACTIONS, BATCH), np.ones(BATCH, np.float32), following, done


def main(turns):
    machine, libraries = describe(), (torch, jax, flax, optax)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
    print(f"{machine.cpu}, {machine.cores} cores, {versions}\n")
    torch.manual_seed(0)
    first, second = TorchDqn(), JaxDqn()
    layers = {"0": "layers_0", "2": "layers_2", "4": "layers_4"}
    weights = {f"{one}.weight": (f"{other}/kernel", np.transpose) for one, other in layers.items()}
    weights |= {f"{one}.bias": f"{other}/bias" for one, other in layers.items()}
    batches = list(transitions(16))
    found = pair(
        Side("PyTorch", first.step, first.params, first.load, first.forward),
        Side("JAX", second.step, second.params, second.load, second.forward, second.wait),
        batches=[tuple(map(torch.from_numpy, batch)) for batch in batches],
        batches_of_second=batches,
        weights=weights,
        turns=turns,
        limit_s=300,
    )
    print(found)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
