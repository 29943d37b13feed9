#!/usr/bin/env python3
"""A cable with a delay, between two network namespaces: two TAP devices and this process between them.

    link.py NAMESPACE_A DEVICE_A NAMESPACE_B DEVICE_B ONE_WAY_MS

Says `ready` when both devices are there; they are gone when it ends. It shapes nothing: bandwidth is for tbf on the devices.
"""
import collections, ctypes, fcntl, os, select, struct, sys, time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_LEN, BURST = 65536, 128


def device(namespace, name):
    """Makes a TAP device inside a namespace, held open from here."""
    home, there = (os.open(path, os.O_RDONLY) for path in ('/proc/self/ns/net', f'/run/netns/{namespace}'))
    libc = ctypes.CDLL(None, use_errno=True)
    for where, act in ((there, True), (home, False)):
        if libc.setns(where, 0):
            raise OSError(ctypes.get_errno(), 'setns')
        if act:
            tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH22x', name.encode(), IFF_TAP | IFF_NO_PI))
        os.close(where)
    return tap


def main():
    a, a_name, b, b_name, delay_ms = sys.argv[1:]
    ends, delay = (device(a, a_name), device(b, b_name)), float(delay_ms) / 1000
    # The delay is the same for all, so what came first leaves first: one queue for both ways.
    waiting, poll = collections.deque(), select.poll()
    for end in ends:
        poll.register(end, select.POLLIN)
    print('ready', flush=True)
    while True:
        left_ms = max(0, (waiting[0][0] - time.monotonic()) * 1000) if waiting else None
        for end, _ in poll.poll(left_ms):
            other = ends[1] if end == ends[0] else ends[0]
            for _ in range(BURST):
                try:
                    frame = os.read(end, FRAME_LEN)
                except BlockingIOError:
                    break
                waiting.append((time.monotonic() + delay, other, frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, to, frame = waiting.popleft()
            try:
                os.write(to, frame)
            except OSError:
                pass  # The device is down or its queue is full: a cable loses the frame.


if __name__ == '__main__':
    main()
