"""What ssh does, on this machine: runs its last argument in a shell that is no child of this process, and relays its pipes.

    python tests/children/far_away.py HOST LINE

When this process is killed, the shell sees no more than its pipes close.
"""

import os
import subprocess
import sys
import threading


def relay(source: int, sink: int) -> None:
    while data := os.read(source, 65536):
        os.write(sink, data)
    os.close(sink)


if __name__ == "__main__":
    os.write(1, b"Welcome. This machine is watched.\n")  # as a shell's start-up files may print
    (asked, into), (out_of, told), (waiting, held) = os.pipe(), os.pipe(), os.pipe()
    subprocess.Popen(["setsid", "--fork", "sh", "-c", sys.argv[-1]], stdin=asked, stdout=told, pass_fds=[held])
    for descriptor in (asked, told, held):
        os.close(descriptor)
    threading.Thread(target=relay, args=(0, into), daemon=True).start()
    relay(out_of, 1)
    os.read(waiting, 1)  # until it has ended
