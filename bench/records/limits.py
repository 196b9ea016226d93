"""Numbers that several rooms must agree on."""

MARGIN = 0.03
"""Two speeds that differ by no larger share are a tie: what may disturb a window, and what counts as steady, follow from it."""

MAX_BYTES = 16 * 2**20
"""Of a file that is read, and of a record that counts."""

LEAST_ROUNDS, MOST_ROUNDS = 5, 30  # that `--rounds auto` plans
