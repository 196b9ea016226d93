"""What is typed on the command line, and what is shown meanwhile."""
