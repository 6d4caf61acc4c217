"""Cgroups that an engine has left: found by their path, emptied and removed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shim_runc_py.linux import cgroup, remains
from shim_runc_py.runc import spec


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/default/c1", "/default/c1"),
        ("/kubepods/burstable/pod1/c1", "/kubepods/burstable/pod1/c1"),
        ("/c1", "/c1"),
        ("/default/c12", ""),
        ("/default/c1/", ""),
        ("/default", ""),
        ("/../c1", ""),
        ("default/c1", ""),
        ("system.slice:cri:c1", ""),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_only_a_cgroup_named_like_the_container_is_its_own(path, expected):
    assert spec.own_cgroup({"linux": {"cgroupsPath": path}}, "c1") == expected


def test_a_spec_without_a_cgroup_has_none():
    assert spec.own_cgroup({}, "c1") == ""
    assert spec.own_cgroup({"linux": []}, "c1") == ""
    assert spec.own_cgroup({"linux": {"cgroupsPath": "/x/"}}, "") == ""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A pretended hierarchy with a child in /ns/c1/below."""
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    (tmp_path / "cgroup.controllers").touch()
    child = subprocess.Popen(["sleep", "1000"])
    below = tmp_path / "ns" / "c1" / "below"
    below.mkdir(parents=True)
    (below / "cgroup.procs").write_text(f"{child.pid}\n0\n")
    yield tmp_path, child
    child.kill()
    child.wait()


def test_the_processes_are_killed_and_frozen_ones_thawed(tree):
    top, child = tree
    found = remains.directories("/ns/c1")
    assert found == [str(top / "ns" / "c1")]
    freezer = top / "ns" / "c1" / "freezer.state"
    freezer.write_text("FROZEN")
    assert not remains.sweep(found)  # files of a pretended cgroup do not vanish by themselves
    assert child.wait(10) == -9
    assert freezer.read_text() == "THAWED"


def test_directories_go_children_first(tree):
    top, _ = tree
    (top / "ns" / "c1" / "below" / "cgroup.procs").unlink()
    (top / "ns" / "c1" / "other").mkdir()
    assert remains.sweep(remains.directories("/ns/c1"))
    assert os.listdir(top / "ns") == []


def test_nothing_there_is_nothing_left(tree):
    assert remains.directories("/ns/nobody") == []
    assert remains.sweep([])
    assert Path(tree[0], "ns", "c1", "below").is_dir()
