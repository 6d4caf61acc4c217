"""Bytes to frames and frames to bytes (CONTRACT 6.1, 6.4).

    0        4           8      9      10
    | length | stream id | type | flags | payload ...      all numbers big-endian

There is no preface, no version, no keep-alive: a connection begins with a header. A payload of
more than 4 MiB is refused before anything is allocated for it: the splitter skips exactly its
bytes and reports an `oversize` frame, so that the stream it belongs to can be answered and the
connection lives on.

This file does not know what a payload means, nor which side we are.
"""

from __future__ import annotations

import struct

MAX_PAYLOAD = 4 << 20
REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4

_HEADER = struct.Struct(">IIBB")
HEADER_LENGTH = _HEADER.size


class Frame:
    """One frame. `oversize` is 0, or the length of a payload that was skipped."""

    __slots__ = ("flags", "kind", "oversize", "payload", "stream")

    def __init__(self, stream: int, kind: int, flags: int, payload: bytes, oversize: int = 0):
        self.stream = stream
        self.kind = kind
        self.flags = flags
        self.payload = payload
        self.oversize = oversize

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"Frame(stream={self.stream}, kind={self.kind}, flags={self.flags}, "
            f"payload={self.payload!r}, oversize={self.oversize})"
        )


def pack(stream: int, kind: int, flags: int, payload: bytes) -> bytes:
    """The bytes of a frame; the caller has checked the payload against MAX_PAYLOAD."""
    return _HEADER.pack(len(payload), stream, kind, flags) + payload


def too_large(length: int) -> str:
    """The text of the status with which an oversize message is answered."""
    return f"message length {length} exceed maximum message size of {MAX_PAYLOAD}"


class Splitter:
    """Cuts a byte stream, fed in any portions, into frames."""

    __slots__ = ("_buffer", "_pending", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self._pending: Frame | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while True:
            if self._pending is not None:
                dropped = min(self._skip, len(buffer) - at)
                at += dropped
                self._skip -= dropped
                if self._skip:
                    break
                frames.append(self._pending)
                self._pending = None
            if len(buffer) - at < HEADER_LENGTH:
                break
            length, stream, kind, flags = _HEADER.unpack_from(buffer, at)
            if length > MAX_PAYLOAD:
                at += HEADER_LENGTH
                self._skip = length
                self._pending = Frame(stream, kind, flags, b"", oversize=length)
                continue
            end = at + HEADER_LENGTH + length
            if len(buffer) < end:
                break
            frames.append(Frame(stream, kind, flags, bytes(buffer[at + HEADER_LENGTH : end])))
            at = end
        del buffer[:at]
        return frames

    def buffered(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return len(self._buffer)
