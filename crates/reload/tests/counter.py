#!/usr/bin/env python3
"""The counter of examples/counter.rs once more, in Python and its standard library alone: docs/handoff-protocol.md as a program.

One thread: it waits for clients, for introductions, for what other versions offer, and for SIGTERM.
"""

import os
import selectors
import signal
import socket
import struct

TAG = b"counter/1"
PORT = "lines"
MAGIC = b"dfho"
HELLO = b"H" + MAGIC + struct.pack("<HH", 1, 1)
MAX_PACKET = 14 + 64 + 2 * 65536
PATIENCE = 30.0


class Line:
    """A client: its counter, and the bytes that were read and not used."""

    def __init__(self, stream, count=0, unread=b""):
        self.stream, self.count, self.unread = stream, count, unread
        self.stays = False

    def read(self, generation):
        """Reads what is there and answers it; returns whether the client goes on."""
        try:
            data = self.stream.recv(1024)
            self.unread += data
            self.answer(generation)
        except OSError:
            return False
        return bool(data) and len(self.unread) <= 1024

    def answer(self, generation):
        """Answers each whole line; also those that another version has read."""
        *asked, self.unread = self.unread.split(b"\n")
        for line in asked:
            if line.strip() == b"next":
                self.count += 1
                self.stream.sendall(b"%d %d\n" % (self.count, generation))
            else:
                self.stream.sendall(b"what?\n")


class Taker:
    """The end of a pair on which another version offers its connections."""

    def __init__(self, pair, serve):
        self.pair, self.serve, self.accepted = pair, serve, {}
        pair.setblocking(False)
        send(pair, HELLO)

    def hear(self):
        """Hears one packet; returns whether more may come."""
        try:
            packet, descriptors = receive(self.pair)
        except BlockingIOError:
            return True
        kind, body = packet[:1], packet[1:]
        if kind == b"O" and len(descriptors) == 1:
            self.weigh(body, descriptors[0])
        elif kind == b"C":
            line = self.accepted.pop(struct.unpack("<I", body)[0])
            # First said, then done: who dies in between has not touched it.
            send(self.pair, b"T" + body)
            self.serve(line)
        elif kind == b"W":
            line = self.accepted.pop(struct.unpack("<I", body)[0], None)
            if line:
                line.stream.close()
        elif not packet:
            # A giver that lives has nothing open when it ends: what it offered last is ours.
            for line in self.accepted.values():
                self.serve(line)
            return False
        return kind != b"H" or common_version(packet) is not None

    def weigh(self, body, descriptor):
        number, tag_len, state_len, unread_len = struct.unpack_from("<IBII", body)
        tag, state, unread = split(body[13:], tag_len, state_len, unread_len)
        stream = socket.socket(fileno=descriptor)
        if tag != TAG or state_len != 8:
            stream.close()
            send(self.pair, b"R" + struct.pack("<I", number))
            return
        stream.setblocking(True)
        self.accepted[number] = Line(stream, struct.unpack("<Q", state)[0], unread)
        send(self.pair, b"A" + struct.pack("<I", number))


class Giver:
    """The end of a pair on which we offer our connections, one after the other."""

    def __init__(self, pair):
        self.pair, self.number, self.usable = pair, 0, True
        pair.settimeout(PATIENCE)
        send(pair, HELLO)
        try:
            self.usable = common_version(receive(pair)[0]) is not None
        except TimeoutError:
            self.usable = False

    def give(self, line):
        """Returns whether the line is the other version's now; if not, it is ours as it was."""
        if not self.usable:
            return False
        self.number += 1
        number = struct.pack("<I", self.number)
        state = struct.pack("<Q", line.count)
        head = b"O" + number + struct.pack("<BII", len(TAG), len(state), len(line.unread))
        try:
            socket.send_fds(self.pair, [head + TAG + state + line.unread], [line.stream.fileno()])
            answer = receive(self.pair)[0]
        except TimeoutError:
            send(self.pair, b"W" + number)
            answer = b""
        except OSError:
            answer = b""
        if answer != b"A" + number:
            self.usable = answer == b"R" + number
            return False
        send(self.pair, b"C" + number)
        # From here on only the other version, or its end, says whose it is.
        self.pair.settimeout(None)
        taken = receive(self.pair)[0] == b"T" + number
        self.pair.settimeout(PATIENCE)
        self.usable = taken
        return taken


def send(pair, packet):
    try:
        pair.send(packet, socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        pass  # its end is heard when we read


def receive(pair):
    """Returns a packet and its descriptors; an empty one at the end."""
    while True:
        try:
            packet, descriptors, _flags, _address = socket.recv_fds(pair, MAX_PACKET, 1)
            return packet, descriptors
        except ConnectionResetError:
            continue  # said once, when it died with packets unread; what it sent before is still there


def split(data, *lengths):
    parts = []
    for length in lengths:
        parts.append(data[:length])
        data = data[length:]
    return parts


def common_version(hello):
    if hello[:5] != b"H" + MAGIC:
        return None
    lowest, highest = struct.unpack_from("<HH", hello, 5)
    return 1 if lowest <= 1 <= highest else None


def unix_address(value):
    return "\0" + value[1:] if value.startswith("@") else value


def choice(port):
    choices = dict(part.split("=") for part in os.environ.get("DF_CONNECTIONS", "").split(":") if part)
    return choices.get(port, "drain")


def introductions(door):
    """Yields the roles and ends that wait at the door."""
    while True:
        try:
            supervisor, _ = door.accept()
        except BlockingIOError:
            return
        with supervisor:
            _pid, uid, _gid = struct.unpack("3i", supervisor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()):
                continue
            supervisor.settimeout(1.0)
            packet, descriptors = receive(supervisor)
            if len(descriptors) == 1 and packet in (MAGIC + b"\x01G", MAGIC + b"\x01T"):
                yield packet[5:], socket.socket(fileno=descriptors[0])


def notify(text):
    if "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(text, unix_address(os.environ["NOTIFY_SOCKET"]))


def main():
    assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDNAMES"] == PORT
    generation = int(os.environ["DF_GENERATION"])
    listener = socket.socket(fileno=3)
    listener.setblocking(False)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(unix_address(os.environ["DF_HANDOFF"]))
    door.listen(16)
    door.setblocking(False)
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())

    waiting = selectors.DefaultSelector()
    for what in (listener, door, woken):
        waiting.register(what, selectors.EVENT_READ, what)
    lines, takers, giver, draining = set(), set(), None, False
    given = kept = 0

    def begin(line):
        try:
            line.answer(generation)
        except OSError:
            return line.stream.close()
        lines.add(line)
        waiting.register(line.stream, selectors.EVENT_READ, line)

    def end(line):
        lines.discard(line)
        waiting.unregister(line.stream)
        line.stream.close()

    def accept_all():
        while True:
            try:
                stream, _ = listener.accept()
            except BlockingIOError:
                return
            stream.setblocking(True)
            begin(Line(stream))

    def meet():
        nonlocal giver
        for role, pair in introductions(door):
            if role == b"G":
                giver = Giver(pair)
            else:
                taker = Taker(pair, begin)
                takers.add(taker)
                waiting.register(pair, selectors.EVENT_READ, taker)

    notify(b"READY=1")
    while not draining or lines or takers:
        for key, _ in waiting.select():
            what = key.data
            if what is listener:
                accept_all()
            elif what is door:
                meet()
            elif what is woken:
                waiting.unregister(woken)
                waiting.unregister(listener)
                accept_all()
                draining = True
            elif isinstance(what, Taker):
                if not what.hear():
                    takers.discard(what)
                    waiting.unregister(what.pair)
                    what.pair.close()
            elif what in lines and (what.stays or not draining) and not what.read(generation):
                end(what)
        if draining:
            before = given, kept
            meet()
            for line in [line for line in lines if not line.stays]:
                if choice(PORT) == "drop":
                    end(line)
                elif choice(PORT) == "hand-over" and giver and giver.give(line):
                    given += 1
                    end(line)
                else:
                    kept += 1
                line.stays = True
            if (given, kept) != before:
                notify(b"X_DF_CONNECTIONS=%s=%d,%d" % (PORT.encode(), given, kept))
    notify(b"STOPPING=1")


if __name__ == "__main__":
    main()
