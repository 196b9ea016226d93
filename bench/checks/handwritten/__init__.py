"""Public implementations, a program each, to hold the backends against.

Each module is the loop that a user of that framework, or of a library in it, would write for the preset's model, batch and
optimizer, without weights, without a session, without a clock per block: it uses neither a backend's session nor `bench.loop`.
Each prints one number, the seconds per step over its blocks. `loops.py` lists them, and says where one computes another
function than the task. Flax and Keras have no BERT: beside KerasHub's, a loop of their users trains the backend's model.

    python -m bench.checks.handwritten --task mnist_mlp --preset standard --data-dir DIR --output mnist_mlp.json

lets them take turns with our own processes, block by block, as the arms of a round do; docs/implementations.md is made of what
it leaves.
"""
