"""One request to a child process, one outcome back: start it, watch it, stop it."""
