"""Stats: every field against the kernel's files, and against the stock shim (SEMANTICS 8)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shim_runc_py.linux import cgroup
from shim_runc_py.task import metrics as ours
from shim_runc_py.testing import conditions
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc.status import RpcError
from tests.conformance.reading import metrics, own_cgroups, removed, unified

pytestmark = pytest.mark.cgroup
NO_LIMIT = (1 << 64) - 1
# More than a portion of the processor, files written and read, memory given back.
WORK = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 3000000 /bin/busybox | md5sum"
LIMITS = {
    "pids": {"limit": 77},
    "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20},
    "cpu": {"quota": 10000, "period": 100000, "shares": 512},
}


@pytest.fixture
def worked(make_bundle, start_shim):
    """`worked(resources)`: (shim, id) of a container that has worked, and now sleeps."""

    def make(resources):
        bundle = make_bundle("sleep")
        bundle.config["linux"]["resources"].update(resources)
        bundle.save()
        shim = start_shim(bundle)
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        shim.task.exec(bundle.id, "work", {"args": ["/bin/sh", "-c", WORK]})
        shim.task.start(bundle.id, "work")
        assert shim.task.wait(bundle.id, "work").exit_status == 0
        return shim, bundle.id

    return make


def test_stats_have_what_consumers_need(worked):
    shim, id = worked(LIMITS)
    found = metrics(shim, id)
    assert found.pids.limit == 77
    assert found.pids.current >= 1
    if unified:
        assert found.cpu.usage_usec > 1000
        assert found.cpu.nr_throttled > 0
        assert found.memory.usage > 0
        assert found.memory.usage_limit == 64 << 20
        assert found.memory.pgfault > 0
        assert found.HasField("memory_events")
    else:
        assert found.cpu.usage.total > 1_000_000
        assert found.cpu.throttling.throttled_periods > 0
        assert found.memory.usage.usage > 0
        assert found.memory.usage.limit == 64 << 20
        assert found.memory.total_pg_fault > 0
        assert found.HasField("memory_oom_control")
    assert found.HasField("cpu")


def test_without_limits_the_numbers_say_so(worked):
    shim, id = worked({})
    found = metrics(shim, id)
    if unified:
        # systemd has a limit of its own for units that have none (DefaultTasksMax).
        assert found.pids.limit == NO_LIMIT or conditions.SYSTEMD
        assert (found.memory.usage_limit, found.memory.swap_limit) == (NO_LIMIT, NO_LIMIT)
    else:
        assert found.pids.limit == 0
        assert found.memory.usage.limit >= 1 << 62


def test_stats_work_in_every_state_until_delete(make_bundle, start_shim):
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    metrics(shim, bundle.id)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    if conditions.SYSTEMD:
        numbers_or_gone(shim, bundle.id)  # systemd removes the scope
    else:
        metrics(shim, bundle.id)
    shim.task.delete(bundle.id)
    with refused(5, "container not created: not found"):
        shim.task.call("Stats", id=bundle.id)


@pytest.mark.parametrize("resources", [{}, LIMITS], ids=["without limits", "with limits"])
def test_our_numbers_are_those_of_the_stock_shim_field_by_field(worked, binary, resources):
    """The container is paused, so that nothing moves between the two readings."""
    if not binary.stock:
        pytest.skip("ours is what the stock shims are compared with")
    shim, id = worked(resources)
    found = cgroup.of(shim.task.state(id).pid)
    shim.task.call("Pause", id=id)

    def both():
        theirs = metrics(shim, id)
        expected = fields(theirs)
        shown = fields(type(theirs).FromString(ours.stats(found).value))
        later = {name for name in shown if name not in expected and is_newer(name)}
        return {name: value for name, value in shown.items() if name not in later}, expected

    shown, expected = both()
    for _ in range(100):
        shown, expected = both()
        if shown == expected:
            break  # else the kernel was still giving pages back
        time.sleep(0.02)
    assert shown == expected
    assert len(expected) > 20, "the stock shim has told nearly nothing"


def is_newer(name):
    """Fields that a stock shim may be too old for (CONTRACT 8.10)."""
    first, _, last = name.rpartition(".")
    return (
        ".psi" in name
        or last in ("max_usage", "swap_max_usage", "nr_bursts", "burst_usec", "oom_group_kill")
        or (
            first == "memory" and last.startswith("workingset_") and last.endswith(("anon", "file"))
        )
        or (first.startswith("hugetlb") and last == "failcnt")
    )


def fields(message, path=""):
    """Name to number for all that is set; entries of lists under what they are about.

    The averages of pressure are left out: they decay while one looks.
    """
    found: dict[str, object] = {}
    for field, value in message.ListFields():
        name = f"{path}{field.name}"
        if field.name in ("avg10", "avg60", "avg300"):
            continue
        if field.is_repeated and field.message_type is not None:
            for entry in value:
                about = [
                    str(getattr(entry, key))
                    for key in ("pagesize", "device", "op", "major", "minor")
                    if hasattr(entry, key)
                ]
                found |= fields(entry, f"{name}[{' '.join(about)}].")
        elif field.message_type is not None:
            found[name] = "there"
            found |= fields(value, f"{name}.")
        else:
            found[name] = list(value) if field.is_repeated else value
    return found


def test_stats_agree_with_the_cgroup(worked):
    shim, id = worked(LIMITS)
    pid = shim.task.state(id).pid
    found = metrics(shim, id)
    directories = cgroup.of(pid).directories
    if unified:
        directory = Path(directories[""])

        def number(name):
            text = (directory / name).read_text().strip()
            return NO_LIMIT if text == "max" else int(text)

        assert found.pids.limit == number("pids.max")
        assert found.memory.usage_limit == number("memory.max")
        assert found.memory.swap_limit == number("memory.swap.max")
        stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
        assert found.memory.pgfault <= int(stat["pgfault"])
        assert found.memory.anon > 0
        throttled = (directory / "cpu.stat").read_text().splitlines()
        # The sleeping shell of the container may have got a turn meanwhile.
        now = int(dict(line.split() for line in throttled)["nr_throttled"])
        assert 0 < found.cpu.nr_throttled <= now
        return
    memory = Path(directories["memory"])
    assert found.memory.usage.limit == int((memory / "memory.limit_in_bytes").read_text())
    stat = dict(line.split() for line in (memory / "memory.stat").read_text().splitlines())
    assert found.memory.hierarchical_memory_limit == int(stat["hierarchical_memory_limit"])
    assert found.memory.hierarchical_swap_limit == int(stat["hierarchical_memsw_limit"])
    assert found.memory.total_rss == int(stat["total_rss"])
    assert len(found.cpu.usage.per_cpu) >= (os.cpu_count() or 1)


@pytest.mark.skipif(not os.path.exists("/proc/pressure"), reason="a kernel without PSI")
@pytest.mark.skipif(not unified, reason="only the metrics of cgroup v2 have pressure")
@pytest.mark.stock(fails="too old for pressure", before=(1, 7))
def test_pressure_is_told(worked):
    shim, id = worked(LIMITS)
    found = metrics(shim, id)
    # Throttled as it was, it has waited for the processor.
    assert found.cpu.psi.some.total > 0
    for part in (found.cpu, found.memory, found.io):
        assert part.psi.HasField("some")
        assert part.psi.HasField("full")


def test_stats_of_a_container_whose_cgroup_has_gone(make_bundle, start_shim, binary):
    """Zeros on v1, an error on v2: as the stock shim has it."""
    bundle = make_bundle("exit-7")
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    directories = own_cgroups(pid, bundle.id)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    for directory in directories:
        wait_until(lambda path=directory: removed(path), f"{directory} is removed")
    if unified:
        directory = directories[0]
        code = 2 if binary.stock and binary.version < (2,) else 5
        with refused(code, f"open {directory}/cgroup.controllers: no such file or directory"):
            metrics(shim, bundle.id)
        return
    found = metrics(shim, bundle.id)
    assert found.HasField("cpu")
    assert (found.memory.usage.usage, found.cpu.usage.total) == (0, 0)


@pytest.mark.stock(varies="fails with ENODEV when a file goes between open and read")
def test_stats_answer_across_the_end_of_a_container(make_bundle, start_shim):
    """FAILURES 30: the cgroup goes at any time between two of the files."""
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    other = shim.connect()
    for _ in range(5):
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        waiting = other.begin("Wait", id=bundle.id)
        shim.task.kill(bundle.id, 9)
        for _ in range(20):
            numbers_or_gone(shim, bundle.id)
        other.finish("Wait", waiting)
        deleting = other.begin("Delete", id=bundle.id)
        with refused(5, "container not created: not found"):
            for _ in range(100_000):
                numbers_or_gone(shim, bundle.id)
        other.finish("Delete", deleting)


def numbers_or_gone(shim, id):
    """On cgroup v2, a cgroup that has gone is an error."""
    try:
        metrics(shim, id)
    except RpcError as error:
        if not (unified and "cgroup.controllers: no such file or directory" in str(error)):
            raise


def test_stats_of_one_container_do_not_mind_the_others(make_bundle, start_shim):
    """FAILURES 29: they are asked for all the time, on nodes where pods come and go."""
    first, second = make_bundle("sleep"), make_bundle("exit-7")
    shim = start_shim(first)
    shim.task.create(first)
    shim.task.start(first.id)
    # What the engine's init was before it became the container's counts for a moment.
    wait_until(lambda: metrics(shim, first.id).pids.current == 1, "one process is left")
    other = shim.connect()
    asked = 0
    for _ in range(5):
        for method, fields in (
            ("Create", {"bundle": str(second), "options": conditions.options()}),
            ("Start", {}),
            ("Wait", {}),
            ("Delete", {}),
        ):
            stream = other.begin(method, id=second.id, **fields)
            for _ in range(5):
                assert metrics(shim, first.id).pids.current == 1
                asked += 1
            other.finish(method, stream)
    assert asked == 100
