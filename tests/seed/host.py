"""A host in the standard library alone: it starts a daemon, sends lines of JSON and reads lines."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time


class Host:
    """One daemon, driven by one line of JSON for one line of JSON.

    Args:
        read_fd: Where its replies come from.
        write_fd: Where commands go.
        process: The daemon, if this host started it.
        timeout: Seconds to wait for each reply.
    """

    def __init__(self, stream, read_fd, write, process=None, timeout=60.0):
        self._stream, self._read_fd, self._write = stream, read_fd, write
        self.process, self.timeout = process, timeout
        self._pending = b""

    @classmethod
    def start(cls, command, **options):
        """Start a daemon that speaks on its stdin and stdout."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, **options)
        return cls(process.stdin, process.stdout.fileno(), process.stdin.write, process)

    @classmethod
    def connect(cls, path):
        """Reach a daemon that listens on a Unix socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return cls(connection, connection.fileno(), connection.sendall)

    def send(self, cmd, **fields):
        """Send a command without waiting for its reply."""
        self.send_raw(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")

    def send_raw(self, data):
        """Send bytes, whatever they are."""
        while data:
            data = data[self._write(data) or len(data) :]

    def read(self):
        """The next reply, which must be a line of JSON as the standard defines it."""
        line = self.read_line()
        return json.loads(line, parse_constant=lambda name: _refuse(f"bare {name} in {line!r}"))

    def read_line(self):
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._pending:
            if not select.select([self._read_fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("no reply came in time")
            data = self._receive()
            if not data:
                raise EOFError("the daemon closed the stream")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def _receive(self):
        if self.process is None:
            return self._stream.recv(1 << 16)
        return self.process.stdout.read(1 << 16)

    def ask(self, cmd, **fields):
        """Send a command and return its reply."""
        self.send(cmd, **fields)
        return self.read()

    def close(self):
        """End the daemon's input, and the daemon if that does not."""
        self._stream.close()
        if self.process is not None:
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()


def _refuse(problem):
    raise ValueError(problem)
