"""pages: what is shared is the memory, never its contents."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shim_runc_py.linux import pages
from shim_runc_py.shim import model
from shim_runc_py.tools import native

ROOT = Path(__file__).resolve().parents[2]

MAPS = """\
00400000-0041f000 r--p 00000000 fe:00 100  /usr/bin/python3.11
00a61000-00a62000 r--p 00660000 fe:00 100  /usr/bin/python3.11
00a62000-00abf000 rw-p 00661000 fe:00 100  /usr/bin/python3.11
00abf000-00b00000 rw-p 00000000 00:00 0
0155c000-01b5e000 rw-p 00000000 00:00 0    [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
7f0000200000-7f0000202000 rw-p 00000000 00:00 0
7f0000300000-7f0000400000 rw-s 00000000 00:01 7 /memfd:mine (deleted)
7f0000400000-7f0000500000 rwxp 00000000 00:00 0
7f0000500000-7f0000502000 rw-p 001d0000 fe:00 101  /usr/lib/libc.so.6
7f0000502000-7f0000504000 rw-p 00000000 00:00 0
7f0000600000-7f0000640000 rw-p 00001000 fe:00 102  /usr/lib/libpython3.12.so.1.0
7f0000640000-7f0000641000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0  [stack]
"""


def test_only_what_the_interpreter_has_its_data_in_is_shared():
    assert pages.writable(MAPS, "/usr/bin/python3.11") == [
        (0x00A62000, 0x00ABF000),
        (0x00ABF000, 0x00B00000),
        (0x0155C000, 0x01B5E000),
        (0x7F0000000000, 0x7F0000100000),
        (0x7F0000600000, 0x7F0000640000),
        (0x7F0000640000, 0x7F0000641000),
    ]


def test_without_the_library_there_is_nothing_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "LIBRARY", str(tmp_path / "missing.so"))
    assert pages.begin() == -1
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert model.share(str(tmp_path)) == 0
    assert pages.give_back() == 0


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / native.PAGES
    if not native.build(native.PAGES, ROOT, path):
        pytest.skip("no C compiler")
    return path


def test_it_compiles_without_a_warning(tmp_path):
    words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", "pages.so"]
    try:
        subprocess.run([*words, pages.__file__[:-2] + "c"], cwd=tmp_path, check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler")


BEGIN = """
import gc, os, random, re, sys, traceback
from shim_runc_py.linux import pages
pages.LIBRARY = sys.argv[1]
def copies():  # KiB that nobody else has
    text = open("/proc/self/smaps_rollup").read()
    return int(re.search(r"Private_Dirty: +(\\d+)", text)[1])
def wait(pid):
    assert os.waitpid(pid, 0)[1] == 0, "a child failed"
def forked(action):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    wait(pid)
def image(action=lambda: None):
    fd = pages.begin()
    assert fd >= 0
    path = f"/proc/self/fd/{fd}"
    forked(lambda: (action(), pages.write(path)))
    size = pages.adopt(fd)
    os.close(fd)
    return size
"""


def play(library, script):
    """Run a script in an interpreter of its own; it says "fine" at its end."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script + "\nprint('fine')", str(library)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout[-5:]) == (0, "fine\n"), done.stderr


def test_a_fork_that_did_what_the_model_did_has_no_copies(library):
    script = """
objects = [[n] for n in range(200000)]
kept = [None] * len(objects)
def work():
    for n, one in enumerate(objects):
        kept[n] = one
def fork():
    before = copies()
    work()
    grown = copies() - before
    assert pages.give_back() > 0
    left = copies() - before
    assert grown > 10000, grown
    assert left < grown / 2, (left, grown)  # what is left is the file's, mapped around an access
    assert all(one == [n] and kept[n] is one for n, one in enumerate(objects))
assert image(work) > 20 << 20
assert not any(kept), "the model is not the zygote"
forked(fork)
"""
    play(library, script)


def test_no_byte_changes_whatever_is_given_back_and_when(library):
    script = """
class Node:
    def __init__(self, n):
        self.name, self.n, self.rest = f"node {n}", n, []
nodes = [Node(n) for n in range(8000)]
def sane():
    return all(one.name == f"node {n}" and one.n == n for n, one in enumerate(nodes))
def work(seed=1):
    chosen = random.Random(seed)
    for turn in range(40):
        for one in chosen.sample(nodes, 300):
            one.rest = [one.n] * chosen.randrange(200)
            one.text = one.name * chosen.randrange(40)
        if turn % 2:
            for one in chosen.sample(nodes, 1000):
                one.rest.clear()
                one.__dict__.pop("text", None)
        if turn % 10 == 0:
            gc.collect()
        yield
def model():
    for _ in work():
        pass
def fork(seed):
    for turn in work(seed):
        pages.give_back()
        for one in nodes:
            assert one.rest in ([], [one.n] * len(one.rest))
            text = getattr(one, "text", "")
            assert text == one.name * (len(text) // len(one.name))
    assert sane()
    nodes.clear()
    gc.collect()
    pages.give_back()
image(model)
assert sane()
for seed in range(1, 6):
    forked(lambda: fork(seed))
assert sane()
"""
    play(library, script)


def test_memory_that_was_unmapped_since_is_somebody_elses(library):
    """A page of other memory that happens to be as in the image keeps what it has."""
    script = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
size = 1 << 20
def new(where, flags=0):
    found = libc.mmap(where, size, 3, 0x22 | flags, -1, 0)
    assert found != ctypes.c_void_p(-1).value
    return found
where = new(None)
ctypes.memset(where, 0x5A, size)
def fork():
    assert libc.munmap(ctypes.c_void_p(where), ctypes.c_size_t(size)) == 0
    assert new(where, 0x10) == where  # MAP_FIXED
    ctypes.memset(where, 0x5A, size)
    pages.give_back()
    assert ctypes.string_at(where, size) == b"\\x5a" * size
assert image() > size
assert ctypes.string_at(where, size) == b"\\x5a" * size
forked(fork)
"""
    play(library, script)


def test_an_image_that_is_not_whole_is_not_taken(library):
    script = """
fd = pages.begin()
assert pages.adopt(fd) == 0
os.write(fd, b"x" * 4096)
assert pages.adopt(fd) == 0
assert pages.give_back() == 0
assert pages.write(f"/proc/self/fd/{fd}")
assert pages.adopt(fd) > 0
assert not pages.write(f"/proc/self/fd/{fd}"), "it is sealed"
assert pages.begin() == -1, "once in a life"
"""
    play(library, script)


def test_a_process_with_threads_is_left_alone(library):
    script = """
import threading
over = threading.Event()
thread = threading.Thread(target=over.wait)
thread.start()
assert pages.begin() == -1
over.set()
thread.join()
"""
    play(library, script)
