"""Faults that people have made, planted in the real backends: each falls at its rung.

The same faults are planted in the reference elsewhere, in every fast run; here a framework's own kernels and optimizer compute.
A fault is a changed text in a file of a backend. Where a framework leaves no place for one, it is not planted: nn.GRU has no
hidden bias that could be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.campaign import plan
from bench.campaign.plan import Choice
from bench.checks import planted
from bench.records.record import Arm
from bench.worker.parity import RUNGS
from tests.conftest import BACKENDS_UNDER_TEST

BACKENDS = Path(__file__).parent.parent / "backends"

Change = tuple[str, str, str]  # file, text, what stands there instead
Planted = Change | Sequence[Change]


@dataclass(frozen=True)
class Fault:
    """The same fault in several backends."""

    task: str
    rung: str  # at which it falls
    places: Mapping[str, Planted]  # backend -> how it is planted there
    precision: str = "float64"
    processes: int = 1


COUNT = "self._n = getattr(self, '_n', 0) + 1\n        "
"""Statements that count the steps of a session."""

TORCH_STEP = ("session.py", "self._optimizer.step()")
KERAS_STEP = ("session.py", "loss, self._state = self._train(*batch, *self._carried(batch))")
JAX_STEP = ("session.py", "        self._example = batch\n")
JAX_STEPPED = ("session.py", "self._carried(batch), batch\n        )\n        return loss\n")

FAULTS: Mapping[str, Fault] = {
    # The forward pass.
    "a kernel transposed": Fault("bert_sentiment", "forward", {
        "pytorch": ("bert.py", "if source.transposed else", "if source.transposed and 'query' not in name else"),
        "tensorflow": ("bert.py", "Leaf(_path(name)) for",
                       "Leaf(_path(name), *[lambda v, n=name: v.T if 'query/kernel' in n else v] * 2) for"),
    }),
    "tanh-GELU for erf": Fault("bert_sentiment", "forward", {
        "pytorch": ("bert.py", '"gelu"', '"gelu_new"'),
        "tensorflow": ("bert.py", "0.5 * value * (1 + tf.math.erf(value * math.sqrt(0.5)))",
                       "keras.activations.gelu(value, approximate=True)"),
        "jax": ("bert.py", "approximate=False", "approximate=True"),
    }),
    "ReLU for GELU": Fault("bert_sentiment", "forward", {
        "pytorch": ("bert.py", '"gelu"', '"relu"'),
        "tensorflow": ("bert.py", "0.5 * value * (1 + tf.math.erf(value * math.sqrt(0.5)))", "tf.nn.relu(value)"),
        "jax": ("bert.py", "jax.nn.gelu(self.intermediate(hidden), approximate=False)",
                "jax.nn.relu(self.intermediate(hidden))"),
    }),
    "a layer norm's eps of 1e-5": Fault("bert_sentiment", "forward", {
        "pytorch": ("bert.py", "layer_norm_eps=config.layer_norm_eps", "layer_norm_eps=1e-5"),
        "tensorflow": ("bert.py", "epsilon=config.layer_norm_eps", "epsilon=1e-5"),
        "jax": ("bert.py", "epsilon=config.layer_norm_eps", "epsilon=1e-5"),
    }),
    "no hidden bias": Fault("gru_lm", "forward", {
        "jax": ("gru.py", "hidden @ kernel + bias", "hidden @ kernel"),
    }),
    "gates swapped": Fault("gru_lm", "forward", {
        "pytorch": ("gru.py", 'Leaf(f"gru.weight_ih_l{i}", np.transpose, np.transpose)',
                    'Leaf(f"gru.weight_ih_l{i}", lambda v: np.roll(v, v.shape[1] // 3, 1).T, '
                    "lambda v: np.roll(v.T, -(v.shape[0] // 3), 1))"),
        "tensorflow": ("gru.py", 'Leaf(f"{cell}/kernel", swap_gates, swap_gates)', 'Leaf(f"{cell}/kernel")'),
        "jax": ("gru.py", "i_r, i_z, i_n = jnp", "i_z, i_r, i_n = jnp"),
    }),
    "labels in the inputs": Fault("gru_lm", "loss", {
        "pytorch": ("session.py", "self._on_host(self._cast(value)) for name, value in batch",
                    "self._on_host(self._cast(batch.labels)) for name, value in batch"),
        "tensorflow": ("session.py", "(*batch.inputs.values(), batch.labels)", "(batch.labels, batch.labels)"),
        "jax": ("session.py", "self._cast(value) for name, value in batch", "batch.labels for name, value in batch"),
    }),
    # The loss and its gradient.
    "a mean over padding": Fault("mnist_mlp", "loss", {
        "pytorch": ("session.py", "torch.dot(_losses(logits, batch.labels).flatten(), batch.weights.flatten())",
                    "_losses(logits, batch.labels).mean()"),
        "tensorflow": ("session.py", "tf.reduce_sum(_losses(logits, labels) * weights)",
                       "tf.reduce_mean(_losses(logits, labels))"),
        "jax": ("session.py", "jnp.sum(_losses(logits, batch.labels) * batch.weights)",
                "jnp.mean(_losses(logits, batch.labels))"),
    }),
    "labels shuffled": Fault("mnist_mlp", "loss", {
        "pytorch": ("session.py", "batch.labels.astype(np.int64)", "batch.labels[::-1].astype(np.int64)"),
        "tensorflow": ("session.py", "(*batch.inputs.values(), batch.labels)",
                       "(*batch.inputs.values(), batch.labels[::-1])"),
        "jax": ("session.py", "DeviceBatch(inputs, batch.labels,", "DeviceBatch(inputs, batch.labels[::-1],"),
    }),
    # The optimizer.
    "eps before the bias correction": Fault("bert_sentiment", "one update", {
        "tensorflow": ("session.py", "(FusedAdam if fused else AdamWithCorrectedEpsilon)(",
                       "keras.optimizers.AdamW("),
        "jax": ("session.py", "eps=spec.eps", "eps=0.0, eps_root=spec.eps"),
    }),
    "an optimizer's default weight decay": Fault("mnist_mlp", "one update", {
        "pytorch": ("session.py", '{"params": others, "weight_decay": 0.0}', '{"params": others}'),
        "tensorflow": [("session.py", "weight_decay=spec.weight_decay,", "weight_decay=0.004,"),
                       ("session.py", "if spec.weight_decay == 0:", "if False:"),
                       ("session.py", "optimizer.exclude_from_weight_decay(undecayed)", "")],
        "jax": ("session.py", "weight_decay=spec.weight_decay,", ""),
    }),
    "weight decay on biases": Fault("bert_sentiment", "one update", {
        "pytorch": ("session.py", "spec.decays(parameter)", "True"),
        "tensorflow": ("session.py", "optimizer.exclude_from_weight_decay(undecayed)", ""),
        "jax": ("session.py", "[spec.decays(weight) for weight in weights]", "[True for weight in weights]"),
    }),
    "clipping after the update": Fault("gru_lm", "one update", {
        "pytorch": [(*TORCH_STEP, "pass"), ("session.py", "if self._clip_norm is not None:",
                                            "self._optimizer.step()\n        if self._clip_norm is not None:")],
        "tensorflow": ("session.py", "self._optimizer.apply(gradients, self._variables)",
                       "self._optimizer.global_clipnorm = None; self._optimizer.apply(gradients, self._variables)"),
        "jax": ("session.py", "optax.chain(optax.clip_by_global_norm(spec.clip_norm), adamw)",
                "optax.chain(adamw, optax.clip_by_global_norm(spec.clip_norm))"),
    }),
    "a warm-up off by one": Fault("bert_sentiment", "one update", {
        "pytorch": ("session.py", "learning_rate_at(updates_done + 1)", "learning_rate_at(updates_done)"),
        "tensorflow": ("session.py", "tf.cast(step, keras.config.floatx()) + 1", "tf.cast(step, keras.config.floatx())"),
        "jax": ("session.py", "updates_done.astype(jnp.result_type(float)) + 1",
                "updates_done.astype(jnp.result_type(float))"),
    }),
    "a state that is not carried": Fault("gru_lm", "trajectory", {
        "pytorch": ("session.py", "loss, self._state = self._step(batch, self._carried(batch))",
                    "loss, _ = self._step(batch, self._carried(batch))"),
        "tensorflow": (*KERAS_STEP, "loss, _ = self._train(*batch, *self._carried(batch))"),
        "jax": ("session.py", "self._optimizer, self._rest, self._state = self._programs.train(",
                "self._optimizer, self._rest, _ = self._programs.train("),
    }),
    # The evaluation.
    "a last batch dropped": Fault("mnist_mlp", "evaluation", {
        "pytorch": ("session.py", "return _losses(logits, batch.labels), logits.argmax(-1)",
                    "return _losses(logits, batch.labels) * (batch.weights is None), logits.argmax(-1)"),
        "tensorflow": ("session.py", "        return losses, predictions\n",
                       "        return losses * tf.cast(tf.reduce_all(batch[-1] > 0), losses.dtype), predictions\n"),
        "jax": ("session.py", "        return losses, predictions\n",
                "        return losses * bool(np.all(batch.weights)), predictions\n"),
    }),
    # Dropout.
    "dropout left on in evaluation": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "self._switch(training=False)\n        logits, self._state",
                    "self._switch(training=True)\n        logits, self._state"),
        "tensorflow": ("session.py", "self._apply(inputs, state, False)", "self._apply(inputs, state, True)"),
        "jax": ("session.py", "batch.inputs, state, training=False)", "batch.inputs, state, training=True)"),
    }),
    "dropout left on in predictions": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "self._switch(training=False)\n        on_device",
                    "self._switch(training=True)\n        on_device"),
        "tensorflow": ("session.py", "strict=True)), state, False)[0]", "strict=True)), state, True)[0]"),
        "jax": ("session.py", "inputs, state, training=False)[0]", "inputs, state, training=True)[0]"),
    }),
    "predictions with the dropout of the training before": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "self._switch(training=False)\n        on_device", "on_device"),
    }),
    "evaluation with the dropout of the training before": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "self._switch(training=False)\n        logits, self._state", "logits, self._state"),
    }),
    "a GRU's dropout never applied": Fault("gru_lm", "dropout", {
        "pytorch": ("gru.py", "config.layers, dropout=dropout)", "config.layers, dropout=0.0)"),
        "tensorflow": ("gru.py", "Dropout(config.dropout,", "Dropout(0.0,"),
        "jax": ("gru.py", "Dropout(config.dropout,", "Dropout(0.0,"),
    }),
    "half of a GRU's dropout": Fault("gru_lm", "dropout", {
        "pytorch": ("gru.py", "config.layers, dropout=dropout)", "config.layers, dropout=dropout / 2)"),
        "tensorflow": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout / 2,"),
        "jax": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout / 2,"),
    }),
    "twice a GRU's dropout": Fault("gru_lm", "dropout", {
        "pytorch": ("gru.py", "config.layers, dropout=dropout)", "config.layers, dropout=dropout * 2)"),
        "tensorflow": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout * 2,"),
        "jax": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout * 2,"),
    }),
    "one mask for all time steps": Fault("gru_lm", "dropout", {
        "tensorflow": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout, noise_shape=(None, 1, None),"),
        "jax": ("gru.py", "Dropout(config.dropout,", "Dropout(config.dropout, broadcast_dims=(0,),"),
    }),
    "masks that repeat": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "        self._example = batch\n",
                    f"        self._example = batch\n        {COUNT}"
                    "if self._n % 50 == 1: torch.manual_seed(0)\n"),
        "tensorflow": (*KERAS_STEP, COUNT + "if self._n % 50 == 1:\n"
                       "            for layer in self._model.keras.layers:\n"
                       "                if hasattr(layer, 'seed_generator'): layer.seed_generator.state.assign([1, 0])\n"
                       "        " + KERAS_STEP[1]),
        "jax": (*JAX_STEP, JAX_STEP[1] + f"        {COUNT}if self._n % 50 == 1: "
                "self._rest = self._commit(self._programs.rest(jax.random.key(1)))\n"),
    }),
    "a seed that is ignored": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "torch.manual_seed(options.masks_seed)", "torch.manual_seed(0)"),
        "tensorflow": ("session.py", "set_random_seed(options.masks_seed)", "set_random_seed(0)"),
        "jax": ("session.py", "jax.random.key(options.seed)", "jax.random.key(0)"),
    }),
    "a BERT without dropout of the attention": Fault("bert_sentiment", "dropout", {
        "pytorch": ("bert.py", "attention_probs_dropout_prob=config.attention_dropout", "attention_probs_dropout_prob=0.0"),
        "tensorflow": ("bert.py", "Dropout(config.attention_dropout)", "Dropout(0.0)"),
        "jax": ("bert.py", "Dropout(config.attention_dropout)", "Dropout(0.0)"),
    }),
    "half of a BERT's dropout": Fault("bert_sentiment", "dropout", {
        "pytorch": ("bert.py", "config.hidden_dropout", "config.hidden_dropout / 2"),
        "tensorflow": ("bert.py", "config.hidden_dropout", "config.hidden_dropout / 2"),
        "jax": ("bert.py", "config.hidden_dropout", "config.hidden_dropout / 2"),
    }),
    "a BERT without dropout before the classifier": Fault("bert_sentiment", "dropout", {
        "pytorch": ("bert.py", "classifier_dropout=config.classifier_dropout", "classifier_dropout=0.0"),
        "tensorflow": ("bert.py", "Dropout(config.classifier_dropout)", "Dropout(0.0)"),
        "jax": ("bert.py", "Dropout(config.classifier_dropout)", "Dropout(0.0)"),
    }),
    # The size that is timed.
    "a kernel that is wrong at a large size": Fault("gru_lm", "full size", {
        "pytorch": ("gru.py", "self.output(features.transpose(0, 1))",
                    "self.output(features.transpose(0, 1)) * (1.001 if features.shape[-1] > 12 else 1.0)"),
        "tensorflow": ("gru.py", '(config.vocabulary, name="output")(steps)',
                       '(config.vocabulary, name="output")(steps * (1.001 if config.hidden > 12 else 1.0))'),
        "jax": ("gru.py", "self.output(steps.swapaxes(0, 1))",
                "self.output(steps.swapaxes(0, 1)) * (1.001 if self.config.hidden > 12 else 1.0)"),
    }),
    "a gradient scaled in bfloat16": Fault("mnist_mlp", "full size", {
        "pytorch": ("session.py", "loss.backward()\n", "loss.backward()\n        if self._autocast is not None: "
                    "self._parameters[0].grad.mul_(0.8)\n"),
        "tensorflow": ("session.py", "self._optimizer.apply(gradients, self._variables)",
                       "self._optimizer.apply([gradients[0] * (0.8 if 'bfloat16' in keras.config.dtype_policy().name "
                       "else 1.0), *gradients[1:]], self._variables)"),
        "jax": [("session.py", "        self.transform = _transform(optimizer, flat=flat)\n",
                 "        self.share = 0.8 if precision == 'bfloat16' else 1\n"
                 "        self.transform = _transform(optimizer, flat=flat)\n"),
                ("session.py", "self.transform.update(gradients,",
                 "self.transform.update([gradients[0] * self.share, *gradients[1:]],")],
    }, precision="bfloat16"),
    # Many updates.
    "every fifth update skipped after the twentieth": Fault("mnist_mlp", "long run", {
        "pytorch": (*TORCH_STEP, COUNT + "if self._n <= 20 or self._n % 5: self._optimizer.step()"),
        "tensorflow": (*KERAS_STEP, COUNT + "kept = [variable.numpy() for variable in self._variables]\n        "
                       + KERAS_STEP[1] + "\n        if self._n > 20 and self._n % 5 == 0:\n"
                       "            for variable, value in zip(self._variables, kept): variable.assign(value)"),
        "jax": [(*JAX_STEP, JAX_STEP[1] + f"        {COUNT}kept = [jnp.array(weight) for weight in self._weights]\n"),
                (*JAX_STEPPED, JAX_STEPPED[1].replace(
                    "        return", "        if self._n > 20 and self._n % 5 == 0: self._weights = self._commit(kept)\n"
                    "        return"))],
    }),
    "a learning rate frozen after step 20": Fault("bert_sentiment", "long run", {
        "pytorch": ("session.py", "learning_rate_at(updates_done + 1)", "learning_rate_at(min(updates_done + 1, 21))"),
        "tensorflow": ("session.py", "update = tf.cast(step, keras.config.floatx()) + 1",
                       "update = tf.minimum(tf.cast(step, keras.config.floatx()) + 1, 21)"),
        "jax": ("session.py", "update = updates_done.astype(jnp.result_type(float)) + 1",
                "update = jnp.minimum(updates_done.astype(jnp.result_type(float)) + 1, 21)"),
    }),
    "a schedule that is wrong at its end": Fault("bert_sentiment", "long run", {
        "pytorch": ("session.py", "return spec.learning_rate_at(updates_done + 1) / spec.learning_rate",
                    "return max(0.05, spec.learning_rate_at(updates_done + 1) / spec.learning_rate)"),
        "tensorflow": ("session.py", "tf.maximum(remaining, 0)", "tf.maximum(remaining, 0.05)"),
        "jax": ("session.py", "jnp.maximum(remaining, 0)", "jnp.maximum(remaining, 0.05)"),
    }),
    "moments that stop after step 20": Fault("mnist_mlp", "long run", {
        "pytorch": (*TORCH_STEP, COUNT + "kept = [one['exp_avg_sq'].clone() for one in self._optimizer.state.values()]\n"
                    "        self._optimizer.step()\n"
                    "        if self._n > 20: [one['exp_avg_sq'].copy_(old) for one, old in "
                    "zip(self._optimizer.state.values(), kept)]"),
        "tensorflow": ("session.py", "(tf.square(gradient) - second) * (1 - self.beta_2)",
                       "(tf.square(gradient) - second) * (1 - self.beta_2) * tf.cast(self.iterations < 25, variable.dtype)"),
        "jax": ("session.py", "updates, optimizer = self.transform.update(gradients, optimizer, weights)",
                "updates, new = self.transform.update(gradients, optimizer, weights)\n"
                "        late = jax.tree.leaves(optimizer)[0] >= 20\n"
                "        optimizer = jax.tree.map(lambda old, now: jnp.where(late & (now.ndim > 0), old, now), "
                "optimizer, new)"),
    }),
    # Several processes.
    "a mean over each rank's own weights": Fault("mnist_mlp", "loss", {
        "pytorch": ("session.py", '(total or float(weights.sum(dtype="float64"))) / self._processes',
                    'float(weights.sum(dtype="float64"))'),
        "tensorflow": [("session.py", 'np.float64(total or weights.sum(dtype="float64"))',
                        'np.float64((2 if total else 1) * weights.sum(dtype="float64"))'),
                       ("session.py", "total or weights.size", "(2 if total else 1) * weights.size")],
        "jax": ("session.py", "np.float64(total)", "np.float64(2 * weights.sum())"),
    }, processes=2),
    "a gradient of each rank's own rows": Fault("mnist_mlp", "gradients", {
        "pytorch": ("session.py", "self._forward(self._together,", "self._forward(self._net,"),
        "tensorflow": ("distributed.py", "loss, *gradients = tf", "loss, *_ = tf"),
    }, processes=2),
    "other initial weights on a rank": Fault("mnist_mlp", "parameters", {
        "pytorch": [("session.py", "self._load(params)",
                     "self._load({name: value * (1 + options.rank) for name, value in params.items()})"),
                    ("distributed.py", "DistributedDataParallel(net,", "DistributedDataParallel(net, init_sync=False,")],
        "tensorflow": ("session.py", "self._load(params)",
                       "self._load({name: value * (1 + options.rank) for name, value in params.items()})"),
        "jax": ("session.py", "self._load(params)",
                "self._load({name: value * (1 + options.rank) for name, value in params.items()})"),
    }, processes=2),
    "the same masks on every rank": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "options.masks_seed", "options.seed"),
        "tensorflow": ("session.py", "options.masks_seed", "options.seed"),
    }, processes=2),
    "masks of a rank that are those of another seed": Fault("gru_lm", "dropout", {
        "pytorch": ("session.py", "options.masks_seed", "options.seed + options.rank"),
        "tensorflow": ("session.py", "options.masks_seed", "options.seed + options.rank"),
    }, processes=2),
}  # fmt: skip

EACH = [(name, backend) for name, fault in FAULTS.items() for backend in fault.places]


def changes(fault: Fault, backend: str) -> list[Change]:
    places = fault.places[backend]
    return [places] if isinstance(places[0], str) else list(places)  # type: ignore[list-item]


@pytest.mark.parametrize(("name", "backend"), EACH)
def test_a_fault_has_a_place_in_the_source_and_leaves_it_python(name: str, backend: str) -> None:
    assert FAULTS[name].rung in RUNGS
    for file, text, instead in changes(FAULTS[name], backend):
        source = (BACKENDS / backend / file).read_text(encoding="utf-8")
        assert text in source
        compile(source.replace(text, instead), file, "exec")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "backend"), [one for one in EACH if one[1] in BACKENDS_UNDER_TEST])
def test_a_planted_fault_falls_at_its_rung(name: str, backend: str) -> None:
    fault = FAULTS[name]
    sources: dict[str, str] = {}
    for file, text, instead in changes(fault, backend):
        source = sources.get(file) or (BACKENDS / backend / file).read_text(encoding="utf-8")
        sources[file] = source.replace(text, instead)
    arm = Arm(name=backend, backend=backend, precision=fault.precision, processes=fault.processes)
    choice = Choice(tasks=[fault.task], arms=[arm], preset="smoke", kinds=("parity",), run_id="planted")
    (task_plan,) = plan.make(choice)
    outcome = planted.climb(task_plan, arm, sources)
    rung = fault.rung
    assert str(outcome.reason).startswith(f"parity: fell at rung {1 + RUNGS.index(rung)} ({rung}) in "), outcome.reason
    assert "Error" not in str(outcome.reason)  # it computed, and was wrong
