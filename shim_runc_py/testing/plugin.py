"""pytest fixtures: bundles, shims, event sink, fake engine, and the check that nothing is left.

Enabled with `pytest_plugins = ["shim_runc_py.testing.plugin"]`, or by itself when the package is
installed (pip install 'containerd-shim-pyrunc-v2[testing]').

A test that takes `binary` runs once for every shim binary: ours, and the stock ones of several
containerd generations. `@pytest.mark.stock(fails="why")` says that the stock shim is known to fail
it, `varies="why"` that it does so sometimes, and `skip="why"` that it must not be tried, because
it would hang or harm the host, or because there is nothing to compare. `since=(2,)` and
`before=(1, 7)` limit that to some versions.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim_runc_py.testing import bundles, generations, launcher, leaks
from shim_runc_py.testing.engines import FakeEngine
from shim_runc_py.testing.pipes import Input, Output
from shim_runc_py.testing.shims import Binary, Shim
from shim_runc_py.testing.sink import Sink

STOCK = "containerd-shim-runc-v2"
_session = tempfile.mkdtemp(prefix="pyrunc-", dir="/tmp")


def pytest_configure(config: pytest.Config) -> None:
    line = "stock(fails=, varies=, skip=reason, since=, before=version): how the stock shim fares"
    config.addinivalue_line("markers", line)
    line = "launchers: tried with every way of ours to be started: with and without the zygote"
    config.addinivalue_line("markers", line)
    os.environ.setdefault("PYRUNC_ZYGOTE", f"{_session}/zygotes")


def pytest_unconfigure() -> None:
    launcher.end_zygotes(Path(_session) / "zygotes")
    shutil.rmtree(_session, ignore_errors=True)
    leaks.remove_cgroup_parents()


@functools.cache
def binaries() -> list[Binary]:
    """Every shim binary to be tried; ours is first."""
    found = [launchers()[0]]
    for suite in generations.SUITES:
        try:
            generation = generations.get(suite)
        except generations.Unavailable as error:
            warnings.warn(f"stock shim of {suite}: {error}", stacklevel=1)
            continue
        version = tuple(int(part) for part in generation.version.split("."))
        found.append(Binary(f"stock-{generation.version}", generation.shim, version))
    if len(found) == 1:
        path = shutil.which(STOCK)
        if path is not None:
            found.append(Binary("stock", path, installed_version(path)))
    return found


@functools.cache
def launchers() -> list[Binary]:
    """The ways to start our shim; the first is the one that most tests use."""
    from shim_runc_py.tools import install, native

    path = str(launcher.write(Path(_session) / "bin"))
    found = [
        Binary("pyrunc", path),
        Binary("pyrunc-direct", path, environ={"PYRUNC_ZYGOTE": "off"}),
    ]
    if install.compiled(native.LAUNCHER) is not None:
        prefix = Path(_session) / "installed"
        install.install(prefix)
        found.append(Binary("pyrunc-native", str(prefix / "bin" / launcher.NAME)))
    return found


def installed_version(path: str) -> tuple[int, ...]:
    """The version that an installed stock shim tells."""
    done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    match = re.search(r"Version:\s+v?(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else (1,)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binary" not in metafunc.fixturenames:
        return
    parameters = []
    others = launchers()[1:] if metafunc.definition.get_closest_marker("launchers") else []
    for binary in binaries() + others:
        marks: list[Any] = []
        for mark in metafunc.definition.iter_markers("stock"):
            if binary.stock and _applies(mark, binary.version):
                marks += _consequences(mark)
        parameters.append(pytest.param(binary, id=binary.name, marks=marks))
    metafunc.parametrize("binary", parameters)


def _applies(mark: pytest.Mark, version: tuple[int, ...]) -> bool:
    since, before = mark.kwargs.get("since", ()), mark.kwargs.get("before")
    return version >= since and (before is None or version < before)


def _consequences(mark: pytest.Mark) -> list[Any]:
    if "skip" in mark.kwargs:
        return [pytest.mark.skip(reason=f"stock shim: {mark.kwargs['skip']}")]
    if "fails" in mark.kwargs:
        reason = f"stock shim: {mark.kwargs['fails']}"
        return [pytest.mark.xfail(reason=reason, strict=True)]
    reason = f"stock shim, sometimes: {mark.kwargs['varies']}"
    return [pytest.mark.xfail(reason=reason, strict=False)]


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """A busybox rootfs, shared and not to be written to."""
    path = Path(_session) / "rootfs"
    if not path.exists():
        bundles.make_rootfs(path)
    return path


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one test, with a short path: unix sockets have room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="t", dir=_session))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, mount, socket, cgroup or descriptor behind."""
    if "place" not in request.fixturenames and "daemon" not in request.fixturenames:
        before = leaks.descriptors()
        yield
        left = {n: t for n, t in leaks.descriptors().items() if n not in before and "/fd" not in t}
        assert not left, f"descriptors left open: {left}"
        return
    there = leaks.Before(_session)
    before = leaks.descriptors()
    yield
    found = there.left()
    if found:
        leaks.clean_up(_session)
    now = leaks.descriptors()
    found += [
        f"descriptor {number} {now[number]}"
        for number in now
        if number not in before and not now[number].startswith("/proc/")
    ]
    assert not found, "left behind:\n" + "\n".join(found)


@pytest.fixture
def sink(nothing_is_left: None, place: Path) -> Iterator[Sink]:
    """The event service of a containerd that is not there."""
    made = Sink(place / "t.sock")
    yield made
    made.stop()


@pytest.fixture
def make_bundle(nothing_is_left: None, place: Path, rootfs: Path) -> Callable[..., bundles.Bundle]:
    """`make_bundle("sleep")`: a bundle from a fixture, with a name of its own."""
    counter = iter(range(1000))

    def make(
        fixture: str = "sleep", args: list[str] | None = None, id: str = "", **changes: Any
    ) -> bundles.Bundle:
        config = {**bundles.spec(fixture, args), **changes}
        name = id or f"{place.name.replace('_', '')}-{next(counter)}"
        return bundles.Bundle(place / "bundles" / name, config, rootfs)

    return make


@pytest.fixture
def start_shim(binary: Binary, place: Path, sink: Sink) -> Iterator[Callable[..., Shim]]:
    """`start_shim(bundle)`: a running shim, ended after the test."""
    made: list[Shim] = []

    def start(bundle: bundles.Bundle, **options: Any) -> Shim:
        shim = Shim(binary, bundle, str(place / "c.sock"), str(sink.path), **options)
        made.append(shim)
        return shim

    yield start
    for shim in reversed(made):
        shim.close()


@pytest.fixture
def outputs(place: Path) -> Iterator[Callable[[], Output]]:
    """`outputs()`: a FIFO that is read to its end in the background."""
    made: list[Output] = []

    def make() -> Output:
        output = Output(place / f"out{len(made)}")
        made.append(output)
        return output

    yield make
    for output in made:
        output.abandon()


@pytest.fixture
def inputs(place: Path) -> Iterator[Callable[[], Input]]:
    """`inputs()`: a FIFO to write to."""
    made: list[Input] = []

    def make() -> Input:
        input_ = Input(place / f"in{len(made)}")
        made.append(input_)
        return input_

    yield make
    for input_ in made:
        input_.close()


@pytest.fixture
def fake_engine(place: Path) -> FakeEngine:
    """runc behind a script that can be told to misbehave."""
    return FakeEngine(place / f"engine{os.urandom(2).hex()}")
