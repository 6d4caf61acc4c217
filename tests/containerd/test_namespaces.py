"""Namespaces.

Odd but legal names, long ones, and the same id in two of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shim_runc_py.testing.daemon import wait_until
from tests.containerd.pairings import NAMESPACE
from tests.containerd.user import User

# The rule of containerd: alphanumerics, with single ones of . _ - between them; at most 76 bytes.
NAMES = ["X.b_c-d1", f"{NAMESPACE}-" + "y" * (75 - len(NAMESPACE))]


@pytest.fixture
def other(user, request):
    """The same user in another namespace, which is gone after the test."""
    name = request.param
    environ = dict(user.daemon.environ)
    user.daemon.environ["CONTAINERD_NAMESPACE"] = name
    yield name
    user.daemon.clean_up(name)
    user.daemon.environ = environ
    user.daemon.ctr("namespaces", "remove", name)
    shutil.rmtree(Path("/run/containerd/runc") / name, ignore_errors=True)
    for hierarchy in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
        if (hierarchy / name).is_dir():
            (hierarchy / name).rmdir()


@pytest.mark.control
@pytest.mark.parametrize("other", NAMES, ids=["mixed", "longest"], indirect=True)
def test_containers_of_an_oddly_named_namespace(user: User, other):
    state = user.daemon.directory / "state/io.containerd.runtime.v2.task"
    user.run("c1", "/bin/sleep", "1000", options=["-d"])
    assert (state / other / "c1" / "config.json").exists()
    assert user.exec("c1", "e1", "exit 3").returncode == 3
    assert user.tasks()["c1"][1] == "RUNNING"
    user.remove("c1")
    wait_until(lambda: not (state / other / "c1").exists(), "its bundle is gone", 10)
    assert list((Path("/run/containerd/runc") / other).iterdir()) == []


@pytest.mark.parametrize("other", [f"{NAMESPACE}.2"], ids=["second"], indirect=True)
def test_one_id_in_two_namespaces_is_two_containers(user: User, other):
    pids = {}
    for name in (NAMESPACE, other):
        user.daemon.environ["CONTAINERD_NAMESPACE"] = name
        pids[name] = user.detach("c1", "/bin/sleep", "1000")
    assert len(user.shims()) == 2
    user.remove("c1")
    assert user.tasks() == {}
    user.daemon.environ["CONTAINERD_NAMESPACE"] = NAMESPACE
    assert user.tasks() == {"c1": (pids[NAMESPACE], "RUNNING")}
    user.remove("c1")
    user.daemon.environ["CONTAINERD_NAMESPACE"] = other


@pytest.mark.control
def test_the_longest_and_oddest_container_and_exec_ids(user: User):
    id = "A1.b_c-" + "z" * 69
    user.detach(id, "/bin/sleep", "1000")
    exec_id = "0-" + "q" * 74
    assert user.exec(id, exec_id, "exit 4").returncode == 4
    user.remove(id)
