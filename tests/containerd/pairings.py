"""What is paired: a containerd of some generation, a shim, and the way they agree on a task API.

Ours is tried with the plain address, which every containerd takes, and with the structured answer
where containerd has one (JSON: 2.0 - 2.2, protobuf: 2.3 and later). The stock shim of the same
generation is the control: it shows that a test is right, and what a user is used to.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from shim_runc_py.testing import generations, plugin
from shim_runc_py.testing.conditions import CGROUP_PREFIX
from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.testing.generations import Generation

# A name of its own: the engine's state and the cgroups of a namespace are global on a machine, and
# with this one the leak check knows the cgroups as those of tests.
NAMESPACE = CGROUP_PREFIX.strip("/")
# Why some tests of events may fail with a stock shim.
LOST_EVENTS = "events that are told while the shim ends may come late or never"
OURS, OURS_TASK3, STOCK = "pyrunc", "pyrunctask3", "runc"


class Pairing:
    """`name` is for test ids; `runtime` is what a client asks containerd for."""

    def __init__(self, generation: Generation, shim: str, dialect: str, task: int) -> None:
        self.generation = generation
        self.stock = shim == STOCK
        self.runtime = f"io.containerd.{shim}.v2"
        self.dialect = dialect
        self.task = task
        self.name = f"{generation.version}-{'stock' if self.stock else 'pyrunc'}-{dialect}"

    @property
    def title(self) -> str:
        """For people: `2.1.9, JSON, Task v3`."""
        dialect = {"plain": "plain address", "json": "JSON", "protobuf": "protobuf"}[self.dialect]
        who = "stock: " if self.stock else ""
        return f"{who}{self.generation.version}, {dialect}, Task v{self.task}"

    def __repr__(self) -> str:
        return self.name


@functools.cache
def find(everything: bool) -> tuple[list[Pairing], list[str]]:
    """The pairings that can be had here, and why others cannot; with `everything`, also those of
    containerds that were built from source.
    """
    found: list[Pairing] = []
    missing: list[str] = []
    for suite in generations.SUITES:
        try:
            found += _of(generations.get(suite))
        except generations.Unavailable as error:
            missing.append(f"containerd of {suite}: {error}")
    for generation in generations.built() if everything else ():
        found += _of(generation)
    return found, missing


def _of(generation: Generation) -> list[Pairing]:
    pairings = [Pairing(generation, OURS, "plain", 2)]
    structured = "protobuf" if generation.major >= (2, 3) else "json"
    if generation.major >= (2, 0):
        pairings.append(Pairing(generation, OURS_TASK3, structured, 3))
        pairings.append(Pairing(generation, STOCK, structured, 3))
    else:
        pairings.append(Pairing(generation, STOCK, "plain", 2))
    return pairings


def daemon(generation: Generation, name: str, *, debug: bool = True) -> Daemon:
    """A containerd in the session's directory, not yet started; `discard` removes it."""
    directory = Path(plugin._session) / name
    directory.mkdir()
    directory.parent.chmod(0o711)  # root of a user namespace has to get to its bundle
    launcher = Path(plugin.binaries()[0].path)
    wrapper = directory / "bin" / f"containerd-shim-{OURS_TASK3}-v2"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nPYRUNC_TASK_API=3 exec {launcher} "$@"\n')
    wrapper.chmod(0o755)
    # Not the folder that the stock shim comes from: that may have a runc for another libc.
    (wrapper.parent / "containerd-shim-runc-v2").symlink_to(generation.shim)
    return Daemon(
        directory,
        containerd=generation.containerd,
        ctr=generation.ctr,
        shim_directories=[str(launcher.parent), str(wrapper.parent)],
        environ={"CONTAINERD_NAMESPACE": NAMESPACE},
        debug=debug,
    )


def discard(daemon: Daemon) -> None:
    """End a containerd and everything in it, and remove its directory."""
    daemon.clean_up(NAMESPACE)
    daemon.stop()
    shutil.rmtree(daemon.directory, ignore_errors=True)
    try:
        ENGINE_STATE.rmdir()
    except OSError:
        pass


ENGINE_STATE = Path("/run/containerd/runc") / NAMESPACE
_TASKS = f"io.containerd.runtime.v2.task/{NAMESPACE}"


def left(daemon: Daemon) -> list[str]:
    """What containers of NAMESPACE have left, one line each."""
    found = []
    for place in (daemon.directory / "state" / _TASKS, daemon.directory / "root" / _TASKS):
        found += [f"bundle {path}" for path in place.iterdir()] if place.is_dir() else []
    if ENGINE_STATE.is_dir():
        found += [f"engine state {path}" for path in ENGINE_STATE.iterdir()]
    for kind in ("containers", "snapshots"):
        lines = daemon.ctr(kind, "ls", check=False).stdout.splitlines()[1:]
        found += [f"{kind}: {line}" for line in lines]
    return found
