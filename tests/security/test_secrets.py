"""What must not be found in logs, dumps and cores."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import prctl

from shim_runc_py.shim import serve
from shim_runc_py.shim.flags import Flags
from shim_runc_py.shim.start import Daemon
from shim_runc_py.testing import leaks
from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused

TOKEN = "s3cr3t-t0k3n"


def test_a_secret_of_a_spec_gets_into_no_log_and_no_dump(make_bundle, start_shim):
    """Must 35."""
    bundle = make_bundle("sleep", annotations={"token": TOKEN})
    bundle.config["process"]["env"].append(f"TOKEN={TOKEN}")
    bundle.save()
    shim = start_shim(bundle, debug=True, environ={"TOKEN": TOKEN})
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    process = {"args": ["/no/such/program", TOKEN], "env": [f"TOKEN={TOKEN}"]}
    shim.task.exec(bundle.id, "e1", process)
    with refused(2, "OCI runtime exec failed"):
        shim.task.start(bundle.id, "e1")
    shim.task.exec(bundle.id, "e2", {"args": ["/bin/sleep", "100"], "env": [f"TOKEN={TOKEN}"]})
    shim.task.start(bundle.id, "e2")
    os.kill(shim.pid, signal.SIGUSR1)
    wait_until(lambda: "END goroutine stack dump" in shim.log(), "it has dumped")
    log = shim.log()
    assert TOKEN not in log
    for path in bundle.path.iterdir():
        if path.is_file() and path.name != "config.json":
            assert TOKEN not in path.read_text(), path


def test_a_shim_listens_on_one_socket_and_has_no_door_for_debuggers(make_bundle, start_shim):
    """Must 36, also with -debug."""
    shim = start_shim(make_bundle("sleep"), debug=True)
    found = leaks.descriptors(shim.pid).values()
    inodes = {text.partition("[")[2].rstrip("]") for text in found if text.startswith("socket:")}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    listening = [line for line in lines if line[6] in inodes and line[3] == "00010000"]
    assert [line[7] for line in listening] == [shim.path]
    for name in ("tcp", "tcp6", "udp", "udp6"):
        table = Path(f"/proc/{shim.pid}/net/{name}")
        if table.exists():
            lines = [line.split() for line in table.read_text().splitlines()[1:]]
            assert not inodes & {line[9] for line in lines}


def test_a_serving_shim_cannot_be_dumped(place):
    """Must 41: neither a core nor a ptrace of somebody without CAP_SYS_PTRACE."""
    listener = os.open("/dev/null", os.O_RDONLY)
    flags = Flags()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            daemon = Daemon.__new__(Daemon)
            daemon.flags = flags
            daemon.listener = os.fdopen(listener)  # type: ignore[assignment]
            serve._detach(daemon, {})
            status = prctl.get_dumpable()
        finally:
            os._exit(status)
    os.close(listener)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
