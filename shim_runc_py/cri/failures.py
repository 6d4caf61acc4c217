"""What goes wrong between a CRI client and its daemon, as exceptions that name the operation.

The daemon's own words pass unchanged: containerd's texts say which container and which step.
"""

from __future__ import annotations

import grpc


class CRIError(Exception):
    """An operation failed; `code` is the gRPC status that the daemon gave."""

    code = grpc.StatusCode.UNKNOWN

    def __init__(self, operation: str, text: str) -> None:
        super().__init__(f"{operation}: {text}")
        self.operation = operation
        self.text = text


class NotFound(CRIError):
    """The daemon knows no such sandbox, container or image."""

    code = grpc.StatusCode.NOT_FOUND


class NotServed(CRIError):
    """The daemon does not have this operation, or this service at all."""

    code = grpc.StatusCode.UNIMPLEMENTED


class TimedOut(CRIError):
    """The operation, or the command it was to run, took longer than it was given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unreachable(CRIError):
    """Nobody who speaks gRPC listens at the endpoint."""

    code = grpc.StatusCode.UNAVAILABLE


class BadReply(CRIError):
    """The daemon answered, but without what an answer must have."""

    code = grpc.StatusCode.INTERNAL


_KINDS = {kind.code: kind for kind in (NotFound, NotServed, TimedOut, Unreachable)}


def from_rpc(operation: str, error: grpc.RpcError) -> CRIError:
    """The exception for a failed call."""
    code: grpc.StatusCode = error.code()
    text = error.details() or code.name
    made = _KINDS.get(code, CRIError)(operation, text)
    made.code = code
    return made
