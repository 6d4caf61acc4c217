"""What /proc says, read."""

import os

import pytest

from benchmarks import memory, processes

ROLLUP = """\
55d0c3a00000-7ffd1a7fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               16428 kB
Pss:                9958 kB
Pss_Dirty:          8920 kB
Pss_Anon:           7000 kB
Shared_Clean:       7508 kB
Private_Clean:       900 kB
Private_Dirty:      8020 kB
"""

SMAPS = """\
00400000-00600000 r-xp 00000000 08:01 1234                       /usr/bin/python3.11
Rss:                 800 kB
Pss:                 300 kB
Private_Clean:       100 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me
00600000-00700000 rw-p 00200000 08:01 1234                       /usr/bin/python3.11
Pss:                  60 kB
Private_Clean:         0 kB
Private_Dirty:        50 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Pss:                1000 kB
Private_Dirty:       500 kB
7f0000200000-7f0000300000 r--p 00000000 08:01 99                 /with blank (deleted)
Pss:                   8 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
"""


def test_a_rollup_gives_private_dirty_pss_and_rss():
    assert memory.parse_rollup(ROLLUP) == memory.Memory(8020, 9958, 16428)


def test_a_rollup_without_a_field_is_not_taken_for_zero():
    with pytest.raises(KeyError):
        memory.parse_rollup("Rss: 1 kB\n")


def test_what_is_shared_is_counted_by_file_without_private_and_anonymous_pages():
    assert memory.shared_by_file(SMAPS) == {"08:01 1234": 210, "08:01 99": 8}


def test_no_mappings_share_nothing():
    assert memory.shared_by_file("") == {}


def test_this_process_has_memory():
    found = memory.read(os.getpid())
    assert 0 < found.private_dirty <= found.pss <= found.rss


def test_settled_reads_every_process():
    assert len(memory.settled([os.getpid(), os.getpid()], seconds=0, interval=0)) == 2


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (b"/usr/bin/python3\0-IS\0/bin/containerd-shim-pyrunc-v2\0zygote\0", True),
        (b"containerd-shim-pyrunc-v2 zygote", True),
        (b"containerd-shim-pyrunc-v2\0-namespace\0k8s.io\0-id\0c1\0", False),
        (b"containerd-shim-runc-v2\0zygote\0", False),
        (b"", False),
    ],
)
def test_a_zygote_is_known_by_its_command_line(cmdline, expected):
    assert processes.is_zygote(cmdline) is expected


def test_processor_time_and_wake_ups_grow():
    pid = os.getpid()
    before = processes.cpu_seconds(pid), processes.wake_ups(pid)
    while processes.cpu_seconds(pid) == before[0]:
        pass
    os.sched_yield()
    assert processes.wake_ups(pid) >= before[1]
