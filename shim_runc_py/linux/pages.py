"""Memory that forks have in common, and have in common again once it is alike.

A fork copies each page that it writes to, and in CPython to look at an object is to write to it: up
goes the reference count, and down again. Of what a shim has copied by the time it is at rest, a
third is as it was in the zygote, and two thirds are as in any other shim at rest: all come from the
same memory, do the same, and differ in a few names and numbers. The kernel does not know.

So there is an *image*: the memory of a model, a shim at rest (`shim/model.py`), in a sealed memfd.
The zygote maps it privately in the place of its own memory, and keeps its own contents as copies
where they differ; no byte changes by that. When a shim is at rest, it gives back each copy that is
equal to the image's page.

That must not be interrupted by Python, which would change what was just compared, so it is done in
C (`pages.c`, compiled where there is a compiler; without it nothing here does anything, and a shim
is larger). It takes about a millisecond.

Kernel facts
------------
* madvise(2) with MADV_DONTNEED drops the copies of a private file mapping; the next access finds
  the file's page. Anonymous memory it makes zeros, which is why `pages.c` looks again.
* Of a page, /proc/self/pagemap tells whether it is a copy (bit 61 not set) or the file's.
* Pages of a memfd are accounted like anonymous memory, to the cgroup that wrote them first.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

LIBRARY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "pages.so")
SMALLEST = 256 << 10  # bytes of anonymous memory; below are the areas of threads and of libraries

_library: ctypes.CDLL | None = None


def begin() -> int:
    """The descriptor of a file for the image of this process or of a fork; -1 without `pages.c`.

    Once in the life of a process, which has to have one thread.
    """
    global _library
    import ctypes

    if _library is not None or len(os.listdir("/proc/self/task")) != 1:
        return -1
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return -1
    library.adopt.restype = library.give_back.restype = ctypes.c_long
    with open("/proc/self/maps") as file:
        regions = writable(file.read(), os.path.realpath("/proc/self/exe"))
    words = [word for region in regions for word in region]
    fd: int = library.begin((ctypes.c_size_t * len(words))(*words), len(regions))
    _library = library
    return fd


def write(path: str) -> bool:
    """Make this process's memory the image; `path` is its file's in /proc. Did it work?"""
    assert _library is not None
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return bool(_library.write_image(fd) == 0)
    finally:
        os.close(fd)


def adopt(fd: int) -> int:
    """Have the image behind this process's memory; bytes of it, 0 if it was not written."""
    assert _library is not None
    return max(0, int(_library.adopt(fd)))


def give_back() -> int:
    """Drop the copies of pages that are as in the image; bytes of them, 0 without an image."""
    if _library is None:
        return 0
    return max(0, int(_library.give_back()))


def writable(maps: str, program: str) -> list[tuple[int, int]]:
    """Of the text of /proc/PID/maps: where the interpreter has its data, as (begin, end).

    These are the heap, large anonymous mappings, and the data of `program` and of libpython, with
    the anonymous mapping that continues them.
    """
    found = []
    before = 0
    for line in maps.splitlines():
        words = line.split(None, 5)
        begin, end = (int(word, 16) for word in words[0].split("-"))
        name = words[5].strip() if len(words) == 6 else ""
        if words[1] != "rw-p":
            continue
        of_python = name == program or "/libpython" in name
        if name == "":
            wanted = end - begin >= SMALLEST or begin == before
        else:
            wanted = of_python or name == "[heap]"
        if wanted:
            found.append((begin, end))
            before = end if of_python else 0
    return found
