"""Status numbers, and the one place where an exception becomes a status.

Any exception may carry an int attribute `code` with a gRPC number; its text is the message. What
carries none is mapped as the Go library does (CONTRACT 6.5): a bare operating system error by its
errno, everything else to UNKNOWN.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

_ERRNO = {
    1: PERMISSION_DENIED,  # EPERM
    2: NOT_FOUND,  # ENOENT
    13: PERMISSION_DENIED,  # EACCES
    17: ALREADY_EXISTS,  # EEXIST
}


class RpcError(Exception):
    """A call that was answered with a status other than OK, or that a handler wants answered so."""

    def __init__(self, code: int, message: str, details: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class Closed(ConnectionError):
    """The connection is gone; the call may or may not have been carried out."""

    def __init__(self) -> None:
        super().__init__("ttrpc: closed")


def of(error: BaseException) -> tuple[int, str]:
    """(status number, message) for an exception that a handler raised."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code, str(error)
    if isinstance(error, TimeoutError):
        return DEADLINE_EXCEEDED, "context deadline exceeded"
    if isinstance(error, OSError):
        text = (error.strerror or str(error)).lower()
        if error.filename is not None:
            text = f"{error.filename}: {text}"
        return _ERRNO.get(error.errno or 0, UNKNOWN), text
    return UNKNOWN, str(error) or type(error).__name__
