"""log: one line per record, whatever is in it, and never a wait (CONTRACT 3.1, SECURITY 34)."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from shim_runc_py import log
from shim_runc_py.log import format_record

NOW = 1_714_557_600_000_000_005  # 2024-05-01T10:00:00.000000005Z


def quoted(text):
    """`text` as it stands in a record."""
    line = format_record(log.INFO, text, {}, NOW)
    assert line.startswith('time="2024-05-01T10:00:00.000000005Z" level=info msg="')
    assert line.endswith('"\n')
    return line[54:-2]


def test_a_record_looks_like_those_of_the_stock_shim():
    line = format_record(log.WARNING, "it happened", {"id": "c1", "pid": 5}, NOW)
    assert line == (
        'time="2024-05-01T10:00:00.000000005Z" level=warning msg="it happened" id="c1" pid="5"\n'
    )


@pytest.mark.parametrize(
    ("level", "name"),
    [(log.DEBUG, "debug"), (log.INFO, "info"), (log.WARNING, "warning"), (log.ERROR, "error")],
)
def test_levels_by_name(level, name):
    assert f" level={name} " in format_record(level, "", {}, NOW)


@pytest.mark.parametrize(
    ("now", "stamp"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (999_999_999, "1970-01-01T00:00:00.999999999Z"),
        (1_000_000_000, "1970-01-01T00:00:01.000000000Z"),
    ],
)
def test_the_time_is_utc_to_the_nanosecond(now, stamp):
    assert format_record(log.INFO, "", {}, now).startswith(f'time="{stamp}" ')


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", ""),
        ("plain text, with punctuation!", "plain text, with punctuation!"),
        ('say "hi"', 'say \\"hi\\"'),
        ("back\\slash", "back\\\\slash"),
        ("two\nlines", "two\\nlines"),
        ("a\tb", "a\\tb"),
        ("a\rb", "a\\u000db"),
        ("\0", "\\u0000"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\x7f", "\\u007f"),
        ("\x85", "\\u0085"),
        ("\u2028", "\\u2028"),
        ("\u202e", "\\u202e"),
        ("\ufeff", "\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
        ("äöü 日本 \U0001f600", "äöü 日本 \U0001f600"),
    ],
)
def test_text_is_escaped(text, escaped):
    assert quoted(text) == escaped
    line = format_record(log.INFO, "", {"key": text}, NOW)
    assert line.endswith(f' key="{escaped}"\n')


def test_a_record_is_one_line_of_printable_text():
    text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2070), *range(0xD800, 0xD810)]))
    line = format_record(log.ERROR, text, {"key": text}, NOW)
    assert line[-1] == "\n"
    assert line[:-1].isprintable()
    line.encode("utf-8")


@pytest.mark.parametrize(("length", "kept"), [(4096, 4096), (4097, 4096), (100_000, 4096)])
def test_long_values_are_cut(length, kept):
    shown = "x" * kept + ("..." if length > kept else "")
    assert quoted("x" * length) == shown
    assert format_record(log.INFO, "", {"key": "x" * length}, NOW).endswith(f' key="{shown}"\n')


def test_any_value_can_be_logged():
    fields: dict[str, object] = {
        "none": None,
        "error": OSError(2, "No such file or directory", "/x"),
        "list": [1],
    }
    line = format_record(log.INFO, "", fields, NOW)
    assert line.endswith(
        ' none="None" error="[Errno 2] No such file or directory: \'/x\'" list="[1]"\n'
    )


@pytest.mark.parametrize(("lost", "end"), [(0, 'msg="x"\n'), (1, 'msg="x" lost="1"\n')])
def test_lost_records_are_told_of(lost, end):
    assert format_record(log.INFO, "x", {}, NOW, lost).endswith(end)


@pytest.fixture
def output(fds, monkeypatch):
    """(read end, write end) of a non-blocking pipe."""
    monkeypatch.setattr(log, "_lost", 0)
    return fds.pipe()


@contextmanager
def standard_error(fd):
    """`fd` is descriptor 2 inside the block."""
    usual = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(usual, 2)
        os.close(usual)


def test_records_go_to_descriptor_2(output):
    with standard_error(output[1]):
        log.info("first", id="c1")
        log.error("second")
    lines = os.read(output[0], 65536).decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        'level=info msg="first" id="c1"',
        'level=error msg="second"',
    ]


@pytest.mark.parametrize(
    ("threshold", "written"),
    [
        (log.DEBUG, ["debug", "info", "warning", "error"]),
        (log.INFO, ["info", "warning", "error"]),
        (log.ERROR, ["error"]),
    ],
)
def test_what_is_below_the_threshold_is_not_written(output, monkeypatch, threshold, written):
    monkeypatch.setattr(log, "threshold", threshold)
    with standard_error(output[1]):
        for write in (log.debug, log.info, log.warning, log.error):
            write("x")
    text = os.read(output[0], 65536).decode()
    assert [line.split()[1] for line in text.splitlines()] == [f"level={name}" for name in written]


def test_a_full_pipe_costs_records_and_no_time(output):
    read_end, write_end = output
    filled = 0
    try:
        while True:
            filled += os.write(write_end, bytes(4096))
    except BlockingIOError:
        pass
    with standard_error(write_end):
        for _ in range(3):
            log.info("lost")
        while filled > 0:
            filled -= len(os.read(read_end, 65536))
        log.info("told")
        log.info("not told again")
    lines = os.read(read_end, 65536).decode().splitlines()
    assert [line.partition(" msg=")[2] for line in lines] == [
        '"told" lost="3"',
        '"not told again"',
    ]


def test_without_a_reader_or_a_descriptor_nothing_is_raised(output, fds):
    fds.close(output[0])
    with standard_error(output[1]):
        log.info("nobody reads")
        os.close(2)
        log.info("nowhere to write")
    assert log._lost == 2


def test_a_text_that_is_no_unicode_is_written(output):
    with standard_error(output[1]):
        log.info(os.fsdecode(b"/path/\xff"))
    assert b"/path/\\udcff" in os.read(output[0], 4096)
