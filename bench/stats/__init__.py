"""Numbers in, decisions out; nothing here knows a record."""
