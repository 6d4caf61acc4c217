"""Message classes from descriptors, with upb and without most of the protobuf package.

The modules that protoc generates import the whole package: text formats, pickling, `threading`.
That is 20 ms and 3 MB for something a shim never uses, and a handler that runs in every fork.
The C module `google._upb._message` holds all that is needed; the generated `*_pb2` modules call
`add`, and `protos/regenerate.py` has made them.

`lean` goes one step further, for processes that are nothing but a shim: the well-known types get no
Python methods (`Any.Pack`, `Timestamp.ToDatetime`), so that what brings them is not imported
either. It has to be called before the first message class is made; without it messages of the
whole protobuf package and of these modules can be mixed in one program.
"""

from __future__ import annotations

import sys

from google._upb import _message
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_METHODS = "google.protobuf.internal.well_known_types"
_pool = _message.default_pool


def lean() -> None:
    """Make message classes without the Python methods of well-known types."""
    if _METHODS not in sys.modules:
        sys.modules[_METHODS] = nothing = type(sys)(_METHODS)
        nothing.WKTBASES = {}  # type: ignore[attr-defined]


def is_lean() -> bool:
    """Has `lean` been called in time?"""
    found = sys.modules.get(_METHODS)
    return found is not None and not found.WKTBASES


def add(module: dict[str, Any], file: bytes) -> None:
    """Put the classes, enums and numbers of a serialized FileDescriptorProto into `module`."""
    descriptor: Any = _pool.AddSerializedFile(file)
    module["DESCRIPTOR"] = descriptor
    for name, enum in descriptor.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number
    for name, message in descriptor.message_types_by_name.items():
        module[name] = _make(message, module["__name__"])


def _make(descriptor: Any, module: str) -> type[Message]:
    """The class of a message; upb has one for each, and returns it when it is there already."""
    body: dict[str, Any] = {
        name: _make(inner, module) for name, inner in descriptor.nested_types_by_name.items()
    }
    for name, enum in descriptor.enum_types_by_name.items():
        body[name] = EnumTypeWrapper(enum)
        body.update((value.name, value.number) for value in enum.values)
    body["DESCRIPTOR"] = descriptor
    body["__module__"] = module
    made: Any = _message.MessageMeta(descriptor.name, (Message,), body)
    return made  # type: ignore[no-any-return]
