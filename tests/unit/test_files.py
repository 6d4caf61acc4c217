"""linux.files: small kernel files, whatever state they are in."""

from __future__ import annotations

import os

import pytest

from shim_runc_py.linux import files
from shim_runc_py.linux.files import NO_LIMIT, numbers_by_key, page_sizes, parse_number


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_a_file_is_read_to_its_end(directory, size):
    path = directory / "file"
    path.write_bytes(os.urandom(size))
    assert files.read_bytes(str(path)) == path.read_bytes()


def test_what_is_not_there_is_none(directory):
    assert files.read_bytes(str(directory / "missing")) is None


@pytest.mark.parametrize("errno", [2, 19, 95])
def test_a_file_that_goes_while_it_is_read_is_none(directory, errno, monkeypatch):
    """ENODEV is what a removed cgroup says, EOPNOTSUPP a pressure file without PSI."""
    path = directory / "file"
    path.touch()

    def fails(*_):
        raise OSError(errno, "fails")

    monkeypatch.setattr(os, "read", fails)
    assert files.read_bytes(str(path)) is None


def test_other_errors_are_raised_with_the_descriptor_closed(directory, monkeypatch):
    path = directory / "file"
    path.touch()
    before = len(os.listdir("/proc/self/fd"))

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fails)
    with pytest.raises(OSError, match="Input/output"):
        files.read_bytes(str(path))
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(NotADirectoryError):
        files.read_bytes(f"{path}/below")


@pytest.mark.parametrize(
    ("text", "unlimited", "number"),
    [
        (b"0\n", 7, 0),
        (b"42", 7, 42),
        (b" 42 \n", 7, 42),
        (b"18446744073709551615\n", 7, NO_LIMIT),
        (b"max\n", 7, 7),
        (b"max", NO_LIMIT, NO_LIMIT),
        (b"-1\n", 7, 0),
        (b"", 7, 0),
        (b"\n", 7, 0),
    ],
)
def test_numbers(text, unlimited, number):
    assert parse_number(text, unlimited) == number


def test_a_number_whose_file_is_missing_is_0(directory):
    assert files.read_number(str(directory / "missing"), unlimited=NO_LIMIT) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", {}),
        (b"a 1\nb 2\n", {b"a": 1, b"b": 2}),
        (b"a 1\n\nb 2", {b"a": 1, b"b": 2}),
        (b"a one\nb\nc -3\nd 4 5\ne 18446744073709551615\n", {b"e": NO_LIMIT}),
    ],
)
def test_lines_of_key_and_number(text, expected):
    assert numbers_by_key(text) == expected


def test_page_sizes_are_spelt_as_in_the_names_of_cgroup_files():
    names = ["hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB", "hugepages-16777216kB"]
    assert page_sizes([*names, "other", "hugepages-xkB"]) == ["16GB", "1GB", "2MB", "64KB"]


def test_a_machine_without_huge_pages_has_no_sizes(monkeypatch):
    def fails(_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "listdir", fails)
    assert files.huge_page_sizes() == []


def test_block_devices_go_by_the_first_name(monkeypatch):
    text = b"major minor  #blocks  name\n\n   8        0  100 sda\n   8        1   50 sda1\n"
    monkeypatch.setattr(files, "read_bytes", lambda _: text + b"   8        0  100 again\n")
    assert files.block_devices() == {(8, 0): "/dev/sda", (8, 1): "/dev/sda1"}
    monkeypatch.setattr(files, "read_bytes", lambda _: None)
    assert files.block_devices() == {}
