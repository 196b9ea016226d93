"""Bare training loops, one per framework, to hold the harness against.

Each module is the loop that a user of that framework would write for the preset's model, batch and optimizer, without
weights, without a session, without a clock per block: it uses neither a backend's session nor `bench.loop`. Each prints one
number, the seconds per step over its blocks. Keras and Flax have no BERT: there the loop trains the backend's
model. `--variant compiled` is another public way to write one.

    python -m bench.checks.handwritten --task mnist_mlp --preset standard --data-dir DIR --rounds 8

lets them take turns with the harness's own processes, block by block, as the arms of a round do, and prints the ratio of the
steps.
"""
