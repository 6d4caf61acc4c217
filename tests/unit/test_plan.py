"""stdio.plan: what the stdio fields of a request ask for (SEMANTICS 4.2, CONTRACT 8.9)."""

from __future__ import annotations

import pytest

from shim_runc_py.errors import InvalidArgument, ShimError
from shim_runc_py.stdio.plan import (
    FILE,
    LOGGER,
    NULL,
    PIPES,
    TERMINAL,
    TERMINAL_LOGGER,
    Plan,
    logger_command,
    plan,
    scheme_of,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("", "", "", False), Plan(NULL)),
        (("/in", "/out", "/err", False), Plan(PIPES, "/in", "/out", "/err")),
        (("", "/out", "", False), Plan(PIPES, "", "/out", "")),
        (("", "", "/err", False), Plan(PIPES, "", "", "/err")),
        (("/in", "", "", False), Plan(PIPES, "/in", "", "")),
        (
            ("fifo:///in", "fifo:///out", "fifo:///err", False),
            Plan(PIPES, "/in", "/out", "/err"),
        ),
        (("/in", "/out", "", True), Plan(TERMINAL, "/in", "/out")),
        (("", "/out", "", True), Plan(TERMINAL, "", "/out")),
        (("/in", "/out", "/err", True), Plan(TERMINAL, "/in", "/out")),
        (("fifo:///in", "fifo:///out", "", True), Plan(TERMINAL, "/in", "/out")),
        (("", "/with:colon", "", False), Plan(PIPES, "", "/with:colon", "")),
    ],
)
def test_the_fields_ask_for(given, expected):
    assert plan(*given) == expected


@pytest.mark.parametrize("scheme", ["http", "nosuch", " fifo", "ttrpc+unix"])
def test_an_unknown_scheme_of_stdout_is_refused(scheme):
    with pytest.raises(ShimError) as caught:
        plan("", f"{scheme}:///x", "", False)
    assert caught.value.code == 2
    assert str(caught.value) == (
        f"failed to create init process I/O: unknown STDIO scheme {scheme}"
    )


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("terminal", [False, True])
def test_a_path_that_cannot_be_is_refused(index, terminal):
    given = ["/in", "/out", "/err"]
    given[index] = "/a\0b"
    stdin, stdout, stderr = given
    with pytest.raises(InvalidArgument, match=r"^stdio path '/a\\x00b': invalid argument$"):
        plan(stdin, stdout, stderr, terminal)


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("", ""), ("/path", ""), ("relative", ""), ("fifo:///x", "fifo"), ("binary:///x", "binary"),
        ("file:///x?a=b", "file"), ("/x://y", "/x"), ("fifo:/x", ""), ("://x", ""),
    ],
)  # fmt: skip
def test_the_scheme_of_a_uri(uri, scheme):
    assert scheme_of(uri) == scheme


def test_plans_compare_by_what_they_ask_for():
    assert Plan(PIPES, "a") == Plan(PIPES, "a")
    assert Plan(PIPES, "a") != Plan(PIPES, "b")
    assert Plan(NULL) != Plan(TERMINAL)
    assert Plan(LOGGER, command=("/log",)) != Plan(LOGGER, command=("/log", "a"))
    assert "'/out'" in repr(Plan(PIPES, "", "/out"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("", "file:///log", "", False), Plan(FILE, "", "/log", "")),
        (("", "file:///log", "file:///log", False), Plan(FILE, "", "/log", "/log")),
        (("/in", "file:///log", "/elsewhere", False), Plan(FILE, "/in", "/log", "/log")),
        (("", "file:///a%20b%25", "x", False), Plan(FILE, "", "/a b%", "/a b%")),
        (("", "file:///a+b", "", False), Plan(FILE, "", "/a+b", "")),
        (("", "file:///log?key=value#part", "", False), Plan(FILE, "", "/log", "")),
    ],
)
def test_a_file_takes_both_outputs(given, expected):
    assert plan(*given) == expected


@pytest.mark.parametrize(("scheme", "must_say_ready"), [("binary", False), ("binary-v2", True)])
@pytest.mark.parametrize(("terminal", "kind"), [(False, LOGGER), (True, TERMINAL_LOGGER)])
def test_a_logger_is_a_command(scheme, must_say_ready, terminal, kind):
    uri = f"{scheme}:///usr/bin/log?to=here"
    found = plan("/in", uri, uri, terminal)
    assert found == Plan(kind, "/in", uri, uri, ("/usr/bin/log", "to", "here"), must_say_ready)


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("binary:///log", ("/log",)),
        ("binary:///log?", ("/log",)),
        ("binary:///log?a=1&b=2", ("/log", "a", "1", "b", "2")),
        ("binary:///log?b=2&a=1", ("/log", "b", "2", "a", "1")),
        ("binary:///log?flag", ("/log", "flag", "")),
        ("binary:///log?flag=&a=1", ("/log", "flag", "", "a", "1")),
        ("binary:///log?a=1&b=2&a=3", ("/log", "a", "1", "b", "2")),
        ("binary:///log?a=b=c", ("/log", "a", "b=c")),
        ("binary:///log?&&a=1&", ("/log", "a", "1")),
        ("binary:///a%20b?k%3D=v+w%2B", ("/a b", "k=", "v w+")),
        ("binary:///a+b?x", ("/a+b", "x", "")),
        ("binary:///log?a=%C3%A4", ("/log", "a", "ä")),
        ("binary:///ä?ö=ü", ("/ä", "ö", "ü")),
        ("binary:///log?a=1#part", ("/log", "a", "1")),
    ],
)
def test_the_command_line_of_a_logger(uri, command):
    assert logger_command(uri) == command


@pytest.mark.parametrize(
    "uri",
    [
        "binary://log", "binary://", "binary://host/log", "binary://./log", "binary-v2://log",
        "file://log", "file://", "file://host/log",
    ],
)  # fmt: skip
def test_a_path_must_be_absolute(uri):
    with pytest.raises(InvalidArgument, match=r"must be absolute: invalid argument$"):
        plan("", uri, "", False)


@pytest.mark.parametrize(
    "path", ["/a%", "/a%2", "/a%zz", "/a%+1", "/a% 1", "/a%-1", "/a%1_", "/a%00b"]
)
@pytest.mark.parametrize("scheme", ["file", "binary"])
def test_an_escape_that_cannot_be_is_refused(scheme, path):
    with pytest.raises(ShimError, match="invalid URL escape"):
        plan("", f"{scheme}://{path}", "", False)


@pytest.mark.parametrize("value", ["%", "%2", "%zz", "%00", "%+1"])
def test_an_escape_of_an_argument_that_cannot_be_is_refused(value):
    with pytest.raises(ShimError, match="invalid URL escape"):
        plan("", f"binary:///log?key={value}", "", False)
