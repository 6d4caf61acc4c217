"""Reads the golden vectors; golden/README.md describes the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, empty_pb2, timestamp_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from shim_runc_py.api import bootstrap_pb2, events_pb2, forward_pb2, runc_options_pb2, task_pb2
from shim_runc_py.ttrpc import frame

KINDS = {"request": frame.REQUEST, "response": frame.RESPONSE, "data": frame.DATA}
_MODULES = (
    any_pb2, bootstrap_pb2, empty_pb2, events_pb2, forward_pb2, runc_options_pb2, task_pb2,
    timestamp_pb2,
)  # fmt: skip


class Vector:
    """One pair of files. `data` are the bytes, `expected` is the JSON."""

    def __init__(self, hex_file: Path) -> None:
        self.name = hex_file.stem
        self.data = bytes.fromhex(hex_file.read_text())
        self.expected: dict[str, Any] = json.loads(hex_file.with_suffix(".json").read_text())

    def __repr__(self) -> str:
        return self.name

    @property
    def sender(self) -> str:
        return str(self.expected.get("sender", ""))

    @property
    def kind(self) -> str:
        return str(self.expected["frame"]["kind"]) if self.sender else ""

    @property
    def stream(self) -> int:
        return int(self.expected["frame"]["stream"])

    @property
    def flags(self) -> int:
        return int(self.expected["frame"]["flags"])

    @property
    def body(self) -> bytes:
        """What follows the header."""
        return self.data[frame.HEADER_LENGTH :]

    def frame(self) -> frame.Frame:
        return frame.Frame(self.stream, KINDS[self.kind], self.flags, self.body)

    def message(self) -> Message:
        """The message that the JSON describes."""
        payload = self.expected["payload"]
        return ParseDict(payload["fields"], message_type(payload["type"])())

    def payload(self) -> bytes:
        """`message` as bytes; b"" when there is none."""
        return self.message().SerializeToString() if "payload" in self.expected else b""


def message_type(name: str) -> type[Message]:
    """The generated class of a message with this full name."""
    for module in _MODULES:
        found = getattr(module, name.rpartition(".")[2], None)
        if found is not None and found.DESCRIPTOR.full_name == name:
            return found  # type: ignore[no-any-return]
    raise LookupError(name)


def as_json(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def load() -> list[Vector]:
    directory = Path(__file__).parent / "golden"
    return [Vector(path) for path in sorted(directory.glob("*.hex"))]


def named(name: str) -> Vector:
    """The vector with this name, given without its number."""
    return next(vector for vector in load() if vector.name.partition("-")[2] == name)
