"""Container logs in the CRI format."""

from __future__ import annotations

import io
import threading

import pytest

from shim_runc_py.cri import logs

T = "2026-01-02T03:04:05"
SECOND = logs.parse_time(T + "Z")


def line(text, nanoseconds=0, stream="stdout", tag="F"):
    return f"{T}.{nanoseconds:09d}Z {stream} {tag} {text}\n".encode()


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T02:00:00.25+02:00", 250_000_000),
        ("2026-11-21T13:40:36.125869197Z", 1795268436125869197),
        ("1969-12-31T23:59:59.999999999Z", -1),
    ],
)
def test_times_keep_their_nanoseconds(text, nanoseconds):
    assert logs.parse_time(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-02T03:04:05", "2026-01-02T03:04:05.5"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        logs.parse_time(text)


def test_an_entry_has_time_stream_and_text():
    assert logs.parse(line("a  b ", 7)) == logs.Entry(SECOND + 7, "stdout", b"a  b \n")
    assert logs.parse(line("x", stream="stderr", tag="P")) == logs.Entry(SECOND, "stderr", b"x")
    assert logs.parse(line("", tag="F")).text == b"\n"
    assert logs.parse(f"{T}Z stdout F".encode()).text == b"\n"
    assert logs.parse(line("x", tag="P:more")).whole is False


@pytest.mark.parametrize("text", [b"", b"x\n", b"x y z w\n", f"{T}Z stdin F x\n".encode()])
def test_a_line_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        logs.parse(text)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("last", [b"", b"part"])
@pytest.mark.parametrize("count", range(7))
def test_the_tail_begins_where_its_lines_do(monkeypatch, block, last, count):
    monkeypatch.setattr(logs, "_BLOCK", block)
    lines = [b"one\n", b"\n", b"three\n", b"four\n"] + ([last] if last else [])
    content = b"".join(lines)
    expected = b"".join(lines[max(0, len(lines) - count) :])
    assert content[logs.tail_offset(io.BytesIO(content), count) :] == expected


def test_tail_and_since_limit_what_is_read(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(b"".join(line(str(n), n) for n in range(5)))
    texts = lambda **options: [entry.text for entry in logs.read(path, **options)]  # noqa: E731
    assert texts() == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    assert texts(tail=2) == [b"3\n", b"4\n"]
    assert texts(tail=0) == []
    assert texts(tail=100, since=SECOND + 3) == [b"3\n", b"4\n"]
    assert texts(since=SECOND + 9) == []


def test_a_log_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(logs.read(tmp_path / "none.log"))


class Writer:
    """Writes one step each time that the reader pauses, then says that the container ended."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def running(self):
        return bool(self.steps)

    def pause(self, _):
        self.steps.pop(0)()


def test_following_waits_for_more_and_ends_with_the_container(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(line("1"))
    half = line("3")

    def append(data):
        def step():
            with path.open("ab") as file:
                file.write(data)

        return step

    writer = Writer(append(line("2") + half[:10]), append(half[10:]), append(line("4")))
    read = logs.read(path, follow=writer.running, pause=writer.pause)
    assert [entry.text for entry in read] == [b"1\n", b"2\n", b"3\n", b"4\n"]


def test_following_goes_on_after_a_rotation(tmp_path):
    path = tmp_path / "0.log"
    path.write_bytes(line("1"))

    def rotate():
        with path.open("ab") as file:
            file.write(line("2"))
        path.rename(tmp_path / "0.log.old")

    writer = Writer(rotate, lambda: path.write_bytes(line("3")))
    read = logs.read(path, follow=writer.running, pause=writer.pause)
    assert [entry.text for entry in read] == [b"1\n", b"2\n", b"3\n"]


def test_following_a_writer_of_another_thread(tmp_path):
    path = tmp_path / "0.log"
    path.touch()
    ended = threading.Event()

    def write():
        with path.open("ab", buffering=0) as file:
            for number in range(200):
                file.write(line(str(number)))
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    found = [entry.text for entry in logs.read(path, follow=lambda: not ended.is_set())]
    thread.join()
    assert found == [b"%d\n" % number for number in range(200)]
