"""pytest fixtures: bundles, shims, event sink, fake engine, and the check that nothing is left.

Enabled with `pytest_plugins = ["shim_runc_py.testing.plugin"]`, or by itself when the package is
installed (pip install 'containerd-shim-pyrunc-v2[testing]').

A test that takes `binary` runs once for every shim binary: ours, and the stock one where it is
installed. `@pytest.mark.stock(fails="why")` says that the stock shim is known to fail it,
`varies="why"` that it does so sometimes, and `skip="why"` that it must not be tried, because it
would hang or harm the host.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim_runc_py.testing import bundles, launcher, leaks
from shim_runc_py.testing.engines import FakeEngine
from shim_runc_py.testing.pipes import Input, Output
from shim_runc_py.testing.shims import Binary, Shim
from shim_runc_py.testing.sink import Sink

STOCK = "containerd-shim-runc-v2"
_session = tempfile.mkdtemp(prefix="pyrunc-", dir="/tmp")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "stock(fails=, varies=, skip=reason): how the stock shim fares with this test"
    )


def pytest_unconfigure() -> None:
    shutil.rmtree(_session, ignore_errors=True)


def binaries() -> list[Binary]:
    """Every shim binary to be tried; ours is first."""
    found = [Binary("pyrunc", str(launcher.write(Path(_session) / "bin")))]
    stock = shutil.which(STOCK)
    if stock is not None:
        found.append(Binary("stock", stock))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "binary" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("stock")
    parameters = []
    for binary in binaries():
        marks: list[Any] = []
        if binary.stock and mark is not None:
            if "skip" in mark.kwargs:
                reason = f"stock shim: {mark.kwargs['skip']}"
                marks.append(pytest.mark.skip(reason=reason))
            elif "fails" in mark.kwargs:
                reason = f"stock shim: {mark.kwargs['fails']}"
                marks.append(pytest.mark.xfail(reason=reason, strict=True))
            elif "varies" in mark.kwargs:
                reason = f"stock shim, sometimes: {mark.kwargs['varies']}"
                marks.append(pytest.mark.xfail(reason=reason, strict=False))
        parameters.append(pytest.param(binary, id=binary.name, marks=marks))
    metafunc.parametrize("binary", parameters)


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
    sockets = leaks.sockets()
    before = leaks.descriptors()
    yield
    found = leaks.settle(_session, sockets)
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
