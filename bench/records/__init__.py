"""The files: their schema, reading, writing, and the older schemas."""
