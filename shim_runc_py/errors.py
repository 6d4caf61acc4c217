"""What can go wrong, in the words and numbers that containerd understands.

Rules
-----
* A `ShimError` is raised where the failure is known, carries the gRPC status number that the
  caller must see and a text that names the object. It becomes a wire status in one place only,
  `ttrpc.server`, which looks at `code` and `str(error)`.
* Texts of the stock shim are kept to the letter where clients match on them (SEMANTICS 1.0,
  6.2; CONTRACT 7.3). The last words of a text name its class (`...: not found`), because
  containerd's clients cut that suffix off again.

This module knows nothing of ttrpc, protobuf or tasks.
"""

# gRPC status numbers (CONTRACT 7.1).
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
ABORTED = 10
OUT_OF_RANGE = 11
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14


class ShimError(Exception):
    """An error with a gRPC status number; `str(error)` is the text for the caller."""

    code = UNKNOWN

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class InvalidArgument(ShimError):
    """The request cannot be meant: a malformed id, an unreadable spec, an unknown type."""

    code = INVALID_ARGUMENT

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: invalid argument")


class NotFound(ShimError):
    """The named container or process is not, or no longer, there."""

    code = NOT_FOUND

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: not found")


class AlreadyExists(ShimError):
    """The id is taken."""

    code = ALREADY_EXISTS

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: already exists")


class FailedPrecondition(ShimError):
    """The object is there but not in the state that the call needs."""

    code = FAILED_PRECONDITION

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: failed precondition")


class Unimplemented(ShimError):
    """A method of the service that this shim does not have."""

    code = UNIMPLEMENTED

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}: not implemented")


class DeadlineExceeded(ShimError):
    """The caller's time, or our own bound, is over."""

    code = DEADLINE_EXCEEDED

    def __init__(self, message: str = "") -> None:
        text = "context deadline exceeded"
        super().__init__(f"{message}: {text}" if message else text)


def words(error: OSError) -> str:
    """The kernel's words for `error` as Go prints them: clients match on these texts."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
