"""Stats: the numbers of a container's cgroup as the message that containerd expects (SEMANTICS 8).

On a unified host io.containerd.cgroups.v2.Metrics, on every other one io.containerd.cgroups.v1.
Only files are read, no process is started. For a cgroup that has gone, the answer is zeros on v1
and an error on v2, as in the stock shim. Sub-messages that consumers count on are there even when
they are empty.
"""

from __future__ import annotations

from shim_runc_py.linux import cgroup1, cgroup2, files
from shim_runc_py.ttrpc.wellknown_pb2 import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim_runc_py.api import metrics_v1_pb2 as v1
    from shim_runc_py.api import metrics_v2_pb2 as v2
    from shim_runc_py.linux.cgroup import Cgroup


def stats(cgroup: Cgroup) -> Any:
    """The metrics of `cgroup`. Raises OSError."""
    message = unified(cgroup.directories[""]) if cgroup.unified else legacy(cgroup.directories)
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


# memory.stat keys of v1 whose field has another name.
_V1_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}


def legacy(directories: dict[str, str]) -> v1.Metrics:
    """The v1 message from directories by controller."""
    from shim_runc_py.api import metrics_v1_pb2 as v1

    metrics = v1.Metrics()
    if "pids" in directories:
        metrics.pids.current, metrics.pids.limit = cgroup1.pids(directories["pids"])
    usage = metrics.cpu.usage
    usage.SetInParent()
    throttling = metrics.cpu.throttling
    throttling.SetInParent()
    if "cpuacct" in directories:
        usage.total, usage.kernel, usage.user, each = cgroup1.cpu_usage(directories["cpuacct"])
        usage.per_cpu.extend(each)
    if "cpu" in directories:
        found = cgroup1.throttling(directories["cpu"])
        throttling.periods, throttling.throttled_periods, throttling.throttled_time = found
    if "memory" in directories:
        _legacy_memory(metrics, directories["memory"])
    metrics.blkio.SetInParent()
    if "blkio" in directories:
        _legacy_blkio(metrics.blkio, directories["blkio"])
    if "hugetlb" in directories:
        for size, used, most, failed in cgroup1.hugetlb(
            directories["hugetlb"], files.huge_page_sizes()
        ):
            metrics.hugetlb.add(pagesize=size, usage=used, max=most, failcnt=failed)
    if "rdma" in directories:
        _rdma(metrics.rdma, directories["rdma"])
    return metrics


def _legacy_memory(metrics: v1.Metrics, directory: str) -> None:
    memory = metrics.memory
    fields = memory.DESCRIPTOR.fields_by_name
    for key, value in cgroup1.memory_stat(directory).items():
        name = key.decode()
        total = name.startswith("total_")
        plain = name.removeprefix("total_")
        plain = _V1_NAMES.get(plain, plain)
        name = f"total_{plain}" if total else plain
        if name in fields and fields[name].number <= 32:
            setattr(memory, name, value)
    entries = (memory.usage, memory.swap, memory.kernel, memory.kernel_tcp)
    for entry, found in zip(entries, cgroup1.memory_entries(directory), strict=True):
        entry.SetInParent()
        if found is not None:
            entry.limit, entry.usage, entry.max, entry.failcnt = found
    control = metrics.memory_oom_control
    control.SetInParent()
    oom = cgroup1.oom_control(directory)
    if oom is not None:
        control.oom_kill_disable, control.under_oom, control.oom_kill = oom


def _legacy_blkio(blkio: v1.BlkIOStat, directory: str) -> None:
    found = cgroup1.blkio(directory, files.block_devices())
    for name, entries in found.items():
        field = getattr(blkio, "io_time_recursive" if name == "time_recursive" else name)
        for operation, device, major, minor, value in entries:
            field.add(op=operation, device=device, major=major, minor=minor, value=value)


def _rdma(message: v1.RdmaStat | v2.RdmaStat, directory: str) -> None:
    found = cgroup2.rdma(directory)
    if found is None:
        return
    message.SetInParent()
    for field, entries in zip((message.current, message.limit), found, strict=True):
        for device, handles, objects in entries:
            field.add(device=device, hca_handles=handles, hca_objects=objects)


def unified(directory: str) -> v2.Metrics:
    """The v2 message from the cgroup's directory; FileNotFoundError when that has gone."""
    from shim_runc_py.api import metrics_v2_pb2 as v2

    metrics = v2.Metrics()
    metrics.pids.SetInParent()
    metrics.pids.current, metrics.pids.limit = cgroup2.pids(directory)
    metrics.cpu.SetInParent()
    _fill(metrics.cpu, cgroup2.flat(directory, "cpu.stat"))
    _pressure(metrics.cpu, directory, "cpu")
    memory = metrics.memory
    memory.SetInParent()
    _fill(memory, cgroup2.flat(directory, "memory.stat"))
    (
        memory.usage,
        memory.usage_limit,
        memory.swap_usage,
        memory.swap_limit,
        memory.max_usage,
        memory.swap_max_usage,
    ) = cgroup2.memory_numbers(directory)
    _pressure(memory, directory, "memory")
    events = cgroup2.flat(directory, "memory.events")
    if events:
        metrics.memory_events.SetInParent()
        _fill(metrics.memory_events, events)
    metrics.io.SetInParent()
    for entry in cgroup2.io(directory):
        metrics.io.usage.add(**entry)
    _pressure(metrics.io, directory, "io")
    metrics.rdma.SetInParent()
    _rdma(metrics.rdma, directory)
    for size, used, most, failed in cgroup2.hugetlb(directory, files.huge_page_sizes()):
        metrics.hugetlb.add(pagesize=size, current=used, max=most, failcnt=failed)
    cgroup2.check(directory)  # last: it may have gone while we read
    return metrics


def _fill(message: v2.CPUStat | v2.MemoryStat | v2.MemoryEvents, values: dict[bytes, int]) -> None:
    """Set the numbers that are named like the kernel's keys."""
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in values.items():
        field = fields.get(key.decode())
        if field is not None and field.message_type is None:
            setattr(message, field.name, value)


def _pressure(message: v2.CPUStat | v2.MemoryStat | v2.IOStat, directory: str, name: str) -> None:
    for kind, (avg10, avg60, avg300, total) in cgroup2.pressure(directory, name).items():
        if kind in ("some", "full"):
            data = getattr(message.psi, kind)
            data.avg10, data.avg60, data.avg300, data.total = avg10, avg60, avg300, total
