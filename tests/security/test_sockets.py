"""Who may speak to a shim, and how little a stranger can do (CVE-2020-15257 and relatives)."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from shim_runc_py.testing import leaks

STRANGER = 65534
CONNECT = """
import socket, sys
found = socket.socket(socket.AF_UNIX)
found.settimeout(5)
found.connect(sys.argv[1])
try:
    found.sendall(b"\\0\\0\\0\\0\\0\\0\\0\\1\\1\\0")
    print(found.recv(100))
except OSError:
    print(b"")
"""


def test_there_is_no_abstract_socket(make_bundle, start_shim):
    """Must 1: those are reached from every container on the host's network."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    inodes = {
        text.partition("[")[2].rstrip("]")
        for text in leaks.descriptors(shim.pid).values()
        if text.startswith("socket:")
    }
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    ours = [line for line in lines if line[6] in inodes]
    assert ours
    assert [line[7] for line in ours if len(line) > 7 and line[7].startswith("@")] == []
    assert shim.path in {line[7] for line in ours if len(line) > 7}


def test_a_container_on_the_hosts_network_finds_no_shim(make_bundle, start_shim, outputs):
    """Must 1, from inside."""
    bundle = make_bundle("hello", ["/bin/cat", "/proc/net/unix"])
    linux = bundle.config["linux"]
    linux["namespaces"] = [found for found in linux["namespaces"] if found["type"] != "network"]
    bundle.save()
    shim = start_shim(bundle)
    out = outputs()
    shim.task.create(bundle, stdout=str(out))
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    names = [line.split()[7] for line in out.read().decode().splitlines() if "@" in line]
    assert [name for name in names if "containerd" in name or "pyrunc" in name] == []


def connect_as(user, path, *wrapper):
    return subprocess.run(
        [*wrapper, sys.executable, "-IS", "-c", CONNECT, path],
        user=user, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip


def test_another_user_gets_no_answer(make_bundle, start_shim):
    """Must 2: also when the modes of the file and its directory let him in."""
    shim = start_shim(make_bundle("sleep"))
    directory = os.path.dirname(shim.path)
    done = connect_as(STRANGER, shim.path)
    assert "PermissionError" in done.stderr
    mode = os.stat(directory).st_mode & 0o777
    os.chmod(directory, 0o755)
    os.chmod(shim.path, 0o666)
    try:
        done = connect_as(STRANGER, shim.path)
        assert done.stdout == "b''\n", done
        # Root, but only in a user namespace of his own.
        done = connect_as(STRANGER, shim.path, "unshare", "-Ur")
        assert done.stdout == "b''\n", done
    finally:
        os.chmod(directory, mode)
    assert shim.task.call("Connect", id="x").shim_pid == shim.pid


def test_one_group_in_two_namespaces_is_two_shims(make_bundle, start_shim):
    """Must 42."""
    annotations = {"io.kubernetes.cri.sandbox-id": "pod1"}
    one = start_shim(make_bundle("sleep", annotations=annotations), namespace="one")
    two = start_shim(make_bundle("sleep", annotations=annotations), namespace="two")
    assert one.path != two.path
    assert one.pid != two.pid


def test_a_planted_socket_does_not_become_the_shim(make_bundle, start_shim, binary, place):
    """Must 43."""
    first = make_bundle("sleep")
    shim = start_shim(first)
    bundle = make_bundle("sleep")
    name = hashlib.sha256(f"{shim.containerd}/test/{bundle.id}".encode()).hexdigest()
    path = Path(os.path.dirname(shim.path)) / name
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    ready, say_ready = os.pipe()
    stay, let_go = os.pipe()
    pid = os.fork()
    if not pid:
        os.setuid(STRANGER)
        listener.listen()  # the kernel keeps the credentials of whoever listens
        os.close(let_go)
        os.write(say_ready, b"x")
        os.read(stay, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        result = shim.run_start(bundle)
        assert result.status == 1
        assert b"belongs to another user" in result.stdout
    finally:
        for fd in (ready, say_ready, stay, let_go):
            os.close(fd)
        os.waitpid(pid, 0)
        listener.close()
        path.unlink()


def test_a_socket_directory_that_others_may_write_to_is_refused(make_bundle, start_shim, place):
    """Musts 3 and 43: it may be a new one of containerd 2.3, or one that was there."""
    from shim_runc_py.api.bootstrap_pb2 import BootstrapParams

    shim = start_shim(make_bundle("sleep"))
    other = make_bundle("sleep")
    directory = place / "s"
    directory.mkdir()
    given = BootstrapParams(instance_id=other.id, namespace="test", socket_dir=str(directory))
    for mode, owner in ((0o777, 0), (0o770, 0), (0o700, STRANGER)):
        directory.chmod(mode)
        os.chown(directory, owner, owner)
        result = shim.run_start(other, given.SerializeToString())
        assert result.status == 1, (mode, owner)
        assert f"{directory} is no directory that only its owner".encode() in result.stdout
    (place / "link").symlink_to(directory)
    os.chown(directory, 0, 0)
    directory.chmod(0o700)
    given.socket_dir = str(place / "link")
    assert b"is no directory" in shim.run_start(other, given.SerializeToString()).stdout


def memory(pid):
    """Private memory of a process in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.startswith(("Private_Dirty:", "Private_Clean:"))
    )


def test_a_thousand_connections_with_half_a_header_hold_up_nobody(make_bundle, start_shim):
    """Must 24."""
    shim = start_shim(make_bundle("sleep"))
    before = memory(shim.pid)
    many = []
    try:
        for _ in range(1000):
            found = socket.socket(socket.AF_UNIX)
            found.connect(shim.path)
            found.sendall(b"\0\0\0")
            many.append(found)
        began = time.monotonic()
        assert shim.task.call("Connect", id="x").shim_pid == shim.pid
        assert time.monotonic() - began < 2
        assert memory(shim.pid) - before < 16 << 20
    finally:
        for found in many:
            found.close()
    deadline = time.monotonic() + 10
    while len(leaks.descriptors(shim.pid)) > 50 and time.monotonic() < deadline:
        shim.task.call("Connect", id="x")
    assert len(leaks.descriptors(shim.pid)) <= 50


def test_a_shim_out_of_descriptors_goes_on_when_there_are_some_again(make_bundle, start_shim):
    """Must 24: more connections than descriptors."""
    shim = start_shim(make_bundle("sleep"))
    used = len(leaks.descriptors(shim.pid))
    subprocess.run(
        ["prlimit", "--pid", str(shim.pid), f"--nofile={used + 20}:"], check=True, timeout=10
    )
    many = []
    try:
        for _ in range(100):
            found = socket.socket(socket.AF_UNIX)
            found.settimeout(1)
            found.connect(shim.path)
            many.append(found)
        assert shim.task.call("Connect", id="x").shim_pid == shim.pid
    finally:
        for found in many:
            found.close()
    assert shim.connect().call("Connect", id="x").shim_pid == shim.pid


def test_endless_output_takes_no_memory(make_bundle, start_shim, outputs, place):
    """Must 25."""
    bundle = make_bundle("hello", ["/bin/sh", "-c", "yes | head -c 200000000"])
    shim = start_shim(bundle)
    os.mkfifo(place / "stream")
    sink = subprocess.Popen(["dd", f"if={place}/stream", "of=/dev/null", "bs=1M"], stderr=-3)
    shim.task.create(bundle, stdout=str(place / "stream"))
    before = memory(shim.pid)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 0
    sink.wait(timeout=30)
    assert memory(shim.pid) - before < 2 << 20


def test_attaching_again_and_again_takes_no_descriptors(make_bundle, start_shim, outputs):
    """Must 25: CVE-2025-64329."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)

    def attach(number):
        name = f"e{number}"
        shim.task.exec(
            bundle.id, name, {"args": ["/bin/true"]}, stdout=str(outputs()), stderr=str(outputs())
        )
        shim.task.start(bundle.id, name)
        shim.task.wait(bundle.id, name)
        shim.task.delete(bundle.id, name)

    attach(0)
    descriptors, used = len(leaks.descriptors(shim.pid)), memory(shim.pid)
    for number in range(1, 40):
        attach(number)
    assert len(leaks.descriptors(shim.pid)) == descriptors
    assert memory(shim.pid) - used < 1 << 20
