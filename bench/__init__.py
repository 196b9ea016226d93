"""Measures and compares. Nothing here imports a framework: a child process loads one backend by name."""
