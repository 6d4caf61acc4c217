"""tests.vm: what its host side makes and reads, without a machine."""

from __future__ import annotations

import lzma
import subprocess
from collections import Counter

import pytest

from tests.vm import initramfs, kernel, machine, suite


def test_an_archive_is_one_that_cpio_reads(directory):
    archive = initramfs.Archive()
    archive.file("a/b/script", "#!/bin/sh\n", 0o755)
    archive.file("a/odd", b"\0\1\2")
    data = archive.finish()
    assert len(data) % 512 == 0
    subprocess.run(
        ["busybox", "cpio", "-i"], input=data, cwd=directory, capture_output=True, check=True
    )
    assert (directory / "a/b/script").read_text() == "#!/bin/sh\n"
    assert (directory / "a/b/script").stat().st_mode & 0o777 == 0o755
    assert (directory / "a/odd").read_bytes() == b"\0\1\2"


def test_the_command_reaches_the_guest_word_for_word(directory):
    words = ["printf", "%s|", "a b", "c'd", "$HOME", "*"]
    data = initramfs.job(
        words,
        {"PATH": "/usr/bin:/bin", "HOME": "/a 'place'"},
        cwd=str(directory),
        systemd=True,
        modules="/m",
        shares=[("share0", "/x")],
    )
    subprocess.run(
        ["busybox", "cpio", "-i"], input=data, cwd=directory, capture_output=True, check=True
    )
    done = subprocess.run([directory / "job/run"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b|c'd|$HOME|*|"
    assert (directory / "job/shares").read_text() == "share0 /x\n"
    assert "SYSTEMD=yes\n" in (directory / "job/settings").read_text()


def test_modules_come_after_what_they_need(directory):
    for name, depends in (("9p", "9pnet,fscache"), ("9pnet", ""), ("fscache", "net-fs")):
        data = b"\x7fELF..\0name=x\0depends=" + depends.encode() + b"\0rest"
        (directory / f"{name}.ko").write_bytes(data)
    (directory / "net_fs.ko.xz").write_bytes(lzma.compress(b"\0depends=\0"))
    found = kernel.modules(directory, ("9p", "builtin", "9pnet"))
    assert [name for name, _ in found] == ["9pnet", "net_fs", "fscache", "9p"]


def test_a_kernel_that_is_none_is_refused():
    with pytest.raises(kernel.Unavailable, match="bzImage"):
        kernel.unpack(bytes(0x300))


REPORT = """<testsuites><testsuite>
<testcase classname="tests.conformance.test_oom" name="test_a[pyrunc]"/>
<testcase classname="tests.conformance.test_oom" name="test_a[stock]">
<failure>x</failure></testcase>
<testcase classname="tests.conformance.test_oom" name="test_b">
<skipped type="pytest.skip" message="why"/></testcase>
<testcase classname="tests.conformance.test_oom" name="test_b[x]">
<skipped type="pytest.xfail" message="why"/></testcase>
<testcase classname="tests.unit.test_x" name="test_c"><error>x</error></testcase>
</testsuite></testsuites>"""


def test_results_are_read_by_function(directory):
    (directory / "report.xml").write_text(REPORT)
    found = suite.read(directory / "report.xml")
    assert found == {
        "test_oom::test_a": Counter(passed=1, failed=1),
        "test_oom::test_b": Counter({"skipped": 1, "expected failure": 1}),
        "test_x::test_c": Counter(failed=1),
    }
    assert suite.in_words(found["test_oom::test_b"]) == "1 expected failure, 1 skipped"
    assert suite.in_words(Counter()) == "not run"


@pytest.mark.parametrize(
    ("failure", "outcomes", "good"),
    [
        ("", Counter(passed=2, skipped=1), True),
        ("", Counter(passed=2, failed=1), False),
        ("", Counter(skipped=3), False),
        ("", Counter(), False),
        ("the machine stopped", Counter(passed=2), False),
    ],
)
def test_a_run_is_good_when_something_has_passed_and_nothing_failed(failure, outcomes, good):
    result = suite.Result(suite.CONFIGURATIONS[0], "runc 1", "2026-01-01", failure, {"a": outcomes})
    assert result.good is good


def test_the_report_has_a_row_for_each_configuration_and_each_test(monkeypatch):
    monkeypatch.setattr(suite, "version_of_containerd", {"a": "1.6.20", "b": "2.1.9"}.get)
    monkeypatch.setattr("shim_runc_py.testing.generations.SUITES", ("a", "b"))
    first = suite.Configuration("runc", "cgroupfs", ("a", "b"))
    second = suite.Configuration("crun", "systemd", ("b",))
    outcomes = {"test_x::test_a": Counter(passed=3), "test_x::test_b": Counter(skipped=1)}
    results = [
        suite.Result(first, "runc version 1", "2026-01-02", "", outcomes),
        suite.Result(second, "crun version 2", "2026-01-03", "the machine stopped"),
    ]
    lines = suite.write(results, "6.1.0").splitlines()
    assert lines[-5:] == [
        "",
        "| test | runc-cgroupfs | crun-systemd |",
        "|---|---|---|",
        "| test_x::test_a | 3 passed | not run |",
        "| test_x::test_b | 1 skipped | not run |",
    ]
    assert lines[-7:-5] == [
        "| runc version 1 | cgroupfs | 1.6.20, 2.1.9 | 2026-01-02 | 3 passed, 1 skipped |",
        "| crun version 2 | systemd | 2.1.9 | 2026-01-03 | the machine stopped |",
    ]
    assert "6.1.0, a unified cgroup v2" in "\n".join(lines)


def test_the_command_line_names_no_device_but_the_ports(directory):
    job = machine.Job(["true"], shares=[directory], systemd=True)
    words = machine.qemu_command("qemu", job, "tcg", directory, directory / "i", [("s0", "/a,b")])
    assert "local,path=/a,,b,mount_tag=s0" in " ".join(words)
    assert "path=/,mount_tag=hostroot" in " ".join(words)
    assert ",readonly=on" in " ".join(words)
    assert "-netdev" not in words
