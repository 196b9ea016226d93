"""The child process: the training loop, the ladder of parity, and every measurement."""
