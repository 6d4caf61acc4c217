"""What every unit test may ask for."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from shim_runc_py.loop import Loop
from tests.unit.driving import BOUND, Clock, Descriptors


@pytest.fixture(autouse=True)
def bounded():
    """A test that hangs fails; none comes near this."""

    def over(*_):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, 3 * BOUND)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def directory():
    """A directory with a short name: unix sockets have room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="unit", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def loop(nothing_is_left):
    """A loop on real time."""
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fake_loop(nothing_is_left, clock):
    """A loop on `clock`; turn it with `driving.turn`."""
    made = Loop(clock)
    yield made
    made.close()


@pytest.fixture
def fds(nothing_is_left):
    """Descriptors that are closed after the test, if it has not closed them itself."""
    made = Descriptors()
    yield made
    made.close_all()
