"""Stands for srun: runs a command on two "nodes" of this machine, ends both if one fails, and passes signals on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    nodes = [subprocess.Popen(command) for _ in range(2)]

    def pass_on(number: int, frame: object) -> None:
        for node in nodes:
            node.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    while None in (codes := [node.poll() for node in nodes]) and not any(codes):
        time.sleep(0.05)
    for node in nodes:
        if node.poll() is None:
            node.terminate()
    return max(abs(node.wait()) for node in nodes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
