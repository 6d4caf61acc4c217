"""Real containerds of several generations, each with our shim and with its own stock shim.

A test with the fixture `pairing` (or `user` or `daemon`, which need it) runs once for each way in
which our shim and a containerd can be paired; marked `control`, also for the stock shims.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim_runc_py.testing.daemon import Daemon
from shim_runc_py.testing.generations import Generation
from tests.containerd import pairings
from tests.containerd.client import Client, Listener
from tests.containerd.compatibility import Recorder
from tests.containerd.docker import Docker
from tests.containerd.pairings import Pairing
from tests.containerd.user import Events, User


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compatibility", metavar="FILE", help="write the table of what was run into FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "control(varies=reason): runs with stock shims, too")
    config.addinivalue_line("markers", "generations(since=, before=version): which have it")
    path = config.getoption("--compatibility", None)
    if path:
        config.pluginmanager.register(Recorder(Path(path)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pairing" not in metafunc.fixturenames:
        return
    everything = bool(metafunc.config.getoption("--compatibility", None))
    found, missing = pairings.find(everything)
    for text in missing:
        warnings.warn(text, stacklevel=1)
    control = metafunc.definition.get_closest_marker("control")
    varies = control.kwargs.get("varies") if control else None
    limit = metafunc.definition.get_closest_marker("generations")
    limits = limit.kwargs if limit else {}
    since, before = limits.get("since", (0,)), limits.get("before", (99,))
    chosen = [
        pytest.param(
            pairing,
            id=pairing.name,
            marks=[pytest.mark.xfail(reason=f"stock shim: {varies}", strict=False)]
            if varies and pairing.stock
            else [],
        )
        for pairing in found
        if (control or not pairing.stock) and since <= pairing.generation.major < before
    ]
    metafunc.parametrize("pairing", chosen)


@pytest.fixture(scope="session")
def daemons() -> Iterator[Callable[[Generation], Daemon]]:
    """The containerd of a generation, started once, for all tests that do not stop it."""
    running: dict[str, Daemon] = {}

    def get(generation: Generation) -> Daemon:
        if generation.version not in running:
            daemon = pairings.daemon(generation, f"d{generation.version}")
            running[generation.version] = daemon
            daemon.start()
        return running[generation.version]

    yield get
    for daemon in running.values():
        pairings.discard(daemon)


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.fixture
def daemon(daemons, pairing: Pairing, request, nothing_is_left) -> Iterator[Daemon]:
    """The shared containerd, without a container when the test begins and ends."""
    shared = daemons(pairing.generation)
    yield shared
    end(shared, request.node)


@pytest.fixture
def own_daemon(pairing: Pairing, request, nothing_is_left) -> Iterator[Daemon]:
    """A containerd that the test may stop and start."""
    daemon = pairings.daemon(pairing.generation, f"o{next(_numbers)}")
    try:
        daemon.start()
        yield daemon
        end(daemon, request.node)
    finally:
        pairings.discard(daemon)


_numbers = itertools.count()


def end(daemon: Daemon, item: pytest.Item) -> None:
    """Remove what a failed test has left in containerd; any other must not have left anything."""
    if item.stash.get(_failed, True):
        daemon.clean_up(pairings.NAMESPACE)
        return
    deadline = time.monotonic() + 5
    while (left := pairings.left(daemon)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if left:
        daemon.clean_up(pairings.NAMESPACE)
    assert not left, "left in containerd:\n" + "\n".join(left)


@pytest.fixture
def user(daemon: Daemon, pairing: Pairing, rootfs: Path) -> User:
    """Someone with ctr at the shared containerd."""
    return User(daemon, pairing, rootfs)


@pytest.fixture
def owner(own_daemon: Daemon, pairing: Pairing, rootfs: Path) -> User:
    """Someone with ctr at a containerd that may be stopped."""
    return User(own_daemon, pairing, rootfs)


@pytest.fixture
def events(daemon: Daemon) -> Iterator[Events]:
    """What the shared containerd tells from now on."""
    subscribed = Events(daemon)
    yield subscribed
    subscribed.close()


@pytest.fixture(scope="module")
def clients(daemons, request):
    """A client for each containerd; gRPC keeps descriptors, so they are made before the tests."""
    made: dict[str, Client] = {}

    def get(generation):
        if generation.version not in made:
            made[generation.version] = Client(daemons(generation))
            made[generation.version].publish("/probe")
        return made[generation.version]

    found, _ = pairings.find(bool(request.config.getoption("--compatibility", None)))
    for pairing in found:
        get(pairing.generation)
    yield get
    for client in made.values():
        client.close()


@pytest.fixture
def docker(clients, daemon, pairing, rootfs):
    return Docker(clients(pairing.generation), pairing.runtime, rootfs)


@pytest.fixture
def listener(docker):
    made = Listener(docker.client)
    yield made
    made.close()
