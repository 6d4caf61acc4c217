"""The few protobuf messages of the short-lived commands, without the protobuf package.

`start`, `delete` and `-info` read or write one small message each, and importing google.protobuf
costs four times as much as everything else they do. These functions know the wire format (varint,
fixed and length-delimited fields) and nothing of any schema; tests hold them against the generated
classes. Pure; in the launcher's import budget.
"""


class WireError(ValueError):
    """The bytes are no protobuf message."""


def fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """(field number, value) in order: int for varint and fixed, bytes for length-delimited.

    Raises WireError.
    """
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise WireError("field number 0")
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value = data[at : at + length]
            if len(value) != length:
                raise WireError("a field is longer than the message")
            at += length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            if at + width > len(data):
                raise WireError("a field is longer than the message")
            value = int.from_bytes(data[at : at + width], "little")
            at += width
        else:
            raise WireError(f"wire type {kind}")
        found.append((number, value))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a number is cut off or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7


def varint(value: int) -> bytes:
    """A number; negative ones as 64 bits of two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A varint field, or nothing for the default 0."""
    return varint(field << 3) + varint(value) if value else b""


def text(field: int, value: bytes | str) -> bytes:
    """A length-delimited field, or nothing for the default: a string, bytes or a message."""
    if not value:
        return b""
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def first_text(message: list[tuple[int, int | bytes]], field: int) -> str:
    """The last value of a string field (as protobuf has it), "" if absent; raises WireError."""
    data = first_bytes(message, field)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WireError("a string is no UTF-8") from None


def first_bytes(message: list[tuple[int, int | bytes]], field: int) -> bytes:
    """The last value of a bytes field, b"" if absent; raises WireError if it is no bytes."""
    found = b""
    for number_, value in message:
        if number_ == field:
            if not isinstance(value, bytes):
                raise WireError("a field has another type")
            found = value
    return found
