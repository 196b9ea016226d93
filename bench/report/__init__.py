"""Tables from records alone: `summary` decides what they say, one module per format how it looks."""
