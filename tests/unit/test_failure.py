"""runc.failure: an engine's failure in its own words (SEMANTICS 3.7, 6.2)."""

from __future__ import annotations

import json

import pytest

from shim_runc_py.runc import failure


def line(level, msg, **more):
    return json.dumps({"level": level, "msg": msg, "time": "2024-05-01T10:00:00Z", **more}) + "\n"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", ""),
        (line("error", "it broke"), "it broke"),
        (line("warning", "careful"), ""),
        (line("error", "first") + line("error", "second"), "second"),
        (line("error", "it broke") + line("warning", "and then") + line("info", "x"), "it broke"),
        (line("error", " spaces \n"), "spaces"),
        (line("error", ""), ""),
        (line("error", "it broke").rstrip("\n"), "it broke"),
        (line("error", "whole") + '{"level":"error","msg":"cut o', "whole"),
        ('og":"cut at the beginning"}\n' + line("error", "whole"), "whole"),
        ("not JSON\n" + line("error", "whole"), "whole"),
        ("[1]\n5\nnull\n" + line("error", "whole"), "whole"),
        ('{"LEVEL":"error","Msg":"any case"}\n', "any case"),
        ('{"msg":"crun","level":"error","time":"x"}\n', "crun"),
        ('{"level":"error"}\n', ""),
        ('{"level":"error","msg":5}\n', ""),
        ('{"level":5,"msg":"x"}\n', ""),
        ("\n\n" + line("error", "after empty lines") + "\n", "after empty lines"),
        (line("error", "two\nlines"), "two\nlines"),
        (line("error", 'exec: "/nosuch": stat'), 'exec: "/nosuch": stat'),
    ],
)
def test_the_last_error_of_the_log_counts(log, expected):
    assert failure.last_error(log) == expected


@pytest.mark.parametrize("char", ["\x7f", "\x85", "\u2028", "\u2029", "\x1c", "\x0b", "ä", "\\"])
def test_only_a_newline_ends_a_record(char):
    # Go's encoder leaves some characters as they are that other places take for line ends.
    for ascii_only in (True, False):
        record = json.dumps({"level": "error", "msg": f"a{char}b"}, ensure_ascii=ascii_only)
        assert failure.last_error(record + "\n") == f"a{char}b"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, "runc did not terminate successfully: exit status 1"),
        ("", "runc did not terminate successfully: exit status 1: "),
        ("why\n", "runc did not terminate successfully: exit status 1: why\n"),
    ],
)
def test_the_error_of_a_command(output, expected):
    assert failure.command_error("runc", 1, output) == expected


def test_an_engine_that_is_not_there():
    assert failure.not_found("no-runc") == 'exec: "no-runc": executable file not found in $PATH'
    text = failure.not_started("/no/runc", "no such file or directory")
    assert text == "fork/exec /no/runc: no such file or directory"


@pytest.mark.parametrize(
    ("problem", "message", "expected"),
    [
        ("", "said the log", "OCI runtime create failed: said the log"),
        ("", "", "OCI runtime create failed: exit status 1"),
        (
            "open /b/log.json: no such file or directory",
            "",
            (
                "OCI runtime create failed: unable to retrieve OCI runtime error "
                "(open /b/log.json: no such file or directory): exit status 1"
            ),
        ),
    ],
)
def test_the_text_for_a_client(problem, message, expected):
    found = failure.runtime_error("OCI runtime create failed", problem, message, "exit status 1")
    assert found == expected


@pytest.mark.parametrize(
    ("text", "missing", "finished"),
    [
        ("container does not exist", True, False),
        ('container "c1" does not exist\n', True, False),
        ("error opening file `/run/x/c1/status`: No such file or directory", True, False),
        ("cannot open directory '/run/x/c1': No such file or directory", True, False),
        ("os: process already finished", False, True),
        ("container not running", False, True),
        ("No Such Process", False, True),
        ("kill: no such process", False, True),
        ("unable to signal init: invalid argument", False, False),
        ("open /run/b/config.json: no such file or directory", False, False),
        ("", False, False),
    ],
)
def test_what_an_error_means(text, missing, finished):
    assert failure.says_missing(text) == missing
    assert failure.says_finished(text) == finished


def test_a_command_line_can_be_pasted():
    assert failure.quote(["runc", "--root", "/a b", "", "x"]) == "runc --root '/a b' '' x"
