"""errors: the numbers and words that containerd understands (CONTRACT 7.1)."""

from __future__ import annotations

import errno
import os

import pytest

from shim_runc_py import errors


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (errors.InvalidArgument, 3, "invalid argument"),
        (errors.NotFound, 5, "not found"),
        (errors.AlreadyExists, 6, "already exists"),
        (errors.FailedPrecondition, 9, "failed precondition"),
        (errors.Unimplemented, 12, "not implemented"),
        (errors.DeadlineExceeded, 4, "context deadline exceeded"),
    ],
)
def test_a_text_ends_in_the_words_of_its_class(kind, code, words):
    error = kind("container c1")
    assert (error.code, str(error)) == (code, f"container c1: {words}")
    assert isinstance(error, errors.ShimError)
    assert kind.code == code


def test_a_deadline_needs_no_object():
    assert str(errors.DeadlineExceeded()) == "context deadline exceeded"


def test_a_plain_error_is_unknown():
    error = errors.ShimError("text")
    assert (error.code, str(error)) == (2, "text")
    assert errors.ShimError("text", 0).code == 0
    assert errors.ShimError("text", 14).code == errors.UNAVAILABLE
    assert errors.ShimError.code == 2


def test_numbers_are_those_of_grpc():
    names = [
        "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
        "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
    ]  # fmt: skip
    assert [getattr(errors, name) for name in names] == list(range(1, 15))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), "no such file or directory"),
        (OSError(errno.EIO, os.strerror(errno.EIO), "/x"), "input/output error"),
        (OSError("bare"), "bare"),
        (OSError("Bare"), "bare"),
        (OSError(errno.EXDEV, "Invalid Cross-Device"), "invalid Cross-Device"),
        (OSError(), ""),
    ],
)
def test_the_kernels_words_as_go_prints_them(error, text):
    assert errors.words(error) == text
