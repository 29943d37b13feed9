"""Stands between two versions that hand over connections: introduces them as a supervisor does, each to itself, and passes on what they say.

Arguments: the giver's address, the taker's, a kind of packet (its first byte), and a number. Before the so manyth packet of that kind is passed on it says `moment`, and waits for
a line: whoever is to die dies now. It has sent the packet, or will never read it. When one side has ended, what it had said is passed on, and the other side sees the end.
"""

import os
import select
import socket
import sys


def introduce(at, role):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as to:
        to.connect(at.replace("@", "\0", 1))
        socket.send_fds(to, [b"dfho\x01" + role], [theirs.fileno()])
    return ours


def main(giver, taker, kind, nth):
    taker, giver = introduce(taker, b"T"), introduce(giver, b"G")
    print("met", flush=True)
    other, n = {giver: taker, taker: giver}, 0
    while True:
        for side in select.select([giver, taker], [], [])[0]:
            try:
                packet, descriptors, _, _ = socket.recv_fds(side, 1 << 18, 1)
            except ConnectionResetError:
                continue  # It died with something unread; what it said is still there.
            if not packet:
                return
            n += packet[:1] == kind
            if packet[:1] == kind and n == nth:
                print("moment", flush=True)
                sys.stdin.readline()
            try:
                socket.send_fds(other[side], [packet], descriptors)
            except (BrokenPipeError, ConnectionResetError):
                pass  # It is dead.
            for descriptor in descriptors:
                os.close(descriptor)


main(sys.argv[1], sys.argv[2], sys.argv[3].encode(), int(sys.argv[4]))
