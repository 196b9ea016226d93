"""Does the instrument work? The self-test, and hand-written loops to compare the harness with."""
