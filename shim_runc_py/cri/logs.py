"""Container logs in the CRI format, read as `kubectl logs` shows them.

One line a piece of output: time (RFC 3339 with nanoseconds), stream, tags, text. The first tag is F
for a full line and P for a part of one, to be joined with the next piece of the same stream. The
daemon writes the file; after the kubelet has renamed it ReopenContainerLog makes it begin another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

STDOUT = "stdout"
STDERR = "stderr"
_BLOCK = 64 << 10
_POLL = 0.05
_NANO = 1_000_000_000


@dataclass(frozen=True)
class Entry:
    """A piece of output; `text` ends with a newline exactly if the line does."""

    time: int  # nanoseconds since 1970
    stream: str
    text: bytes

    @property
    def whole(self) -> bool:
        return self.text.endswith(b"\n")


def parse(line: bytes) -> Entry:
    """An entry from a line of the file, with or without its newline. Raises ValueError."""
    words = line.rstrip(b"\n").split(b" ", 3)
    if len(words) < 3:
        raise ValueError(f"not a line of a CRI log: {line[:80]!r}")
    stamp, stream, tags = (word.decode("ascii", "replace") for word in words[:3])
    if stream not in (STDOUT, STDERR):
        raise ValueError(f"not a stream of a CRI log: {stream!r} in {line[:80]!r}")
    text = words[3] if len(words) == 4 else b""
    if tags.partition(":")[0] == "F":
        text += b"\n"
    return Entry(parse_time(stamp), stream, text)


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time. Raises ValueError."""
    head, dot, rest = text.partition(".")
    fraction, zone = "", rest
    if dot:
        fraction = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        zone = rest[len(fraction) :]
        moment = datetime.fromisoformat(head + zone)
    else:
        moment = datetime.fromisoformat(head)
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {text!r}")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return (since.days * 86400 + since.seconds) * _NANO + nanoseconds


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines of a file begin; its last line may lack the newline."""
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    position, wanted = end, lines + 1
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            wanted = lines
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        block = file.read(position - start)
        count = block.count(b"\n")
        if count >= wanted:
            at = len(block)
            for _ in range(wanted):
                at = block.rindex(b"\n", 0, at)
            return start + at + 1
        wanted -= count
        position = start
    return 0


def read(
    path: Path,
    *,
    tail: int | None = None,
    since: int = 0,
    follow: Callable[[], bool] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Entry]:
    """The entries of a log file, oldest first.

    `tail` limits them to the last lines, `since` (nanoseconds since 1970) to younger ones. With
    `follow` the iteration goes on, over rotations too, until `follow()` says that the container has
    ended and everything is read. Raises OSError; FileNotFoundError when there is no log.
    """
    file = path.open("rb")
    try:
        if tail is not None:
            file.seek(tail_offset(file, tail))
        rest = b""
        while True:
            # Asked before reading: what is written before the end is then seen.
            over = follow is None or not follow()
            while chunk := file.readline():
                rest += chunk
                if not rest.endswith(b"\n"):
                    break
                entry = parse(rest)
                rest = b""
                if entry.time >= since:
                    yield entry
            if not chunk and _replaced(file, path):
                file.close()
                file = path.open("rb")
                continue
            if over:
                return
            pause(_POLL)
    finally:
        file.close()


def _replaced(file: BinaryIO, path: Path) -> bool:
    """Whether the path is another file by now; while a rotation is under way it is none."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return there.st_ino != os.fstat(file.fileno()).st_ino
