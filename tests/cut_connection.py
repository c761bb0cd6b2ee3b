"""``cut_connection.py PORT BYTES``: pass bytes on to a local port, and break off after so many.

An ssh config names it as ProxyCommand. Only what goes to the port is counted.
"""

from __future__ import annotations

import os
import select
import socket
import sys


def main() -> None:
    """Forward both ways until one side ends or the count is reached."""
    port, left = int(sys.argv[1]), int(sys.argv[2])
    with socket.create_connection(("127.0.0.1", port)) as server:
        while True:
            ready, _, _ = select.select([0, server.fileno()], [], [])
            if server.fileno() in ready:
                answer = server.recv(65536)
                if not answer:
                    return
                os.write(1, answer)
            if 0 in ready:
                data = os.read(0, min(65536, left))
                if not data:
                    return
                server.sendall(data)
                left -= len(data)
                if left == 0:
                    return


if __name__ == "__main__":
    main()
