"""Runs one command in one machine: a stock kernel with a unified cgroup v2, under QEMU.

The machine sees this one's whole file tree: "/" is exported read-only over 9p and gets a tmpfs
overlay, so the guest may write anywhere and nothing reaches the host. Exceptions are the shared
directories, which are mounted at their own places straight through, and /proc, /sys, /dev, /run
and /tmp, which are the guest's own. /sys/fs/cgroup is a cgroup2 mount with every controller
enabled. There is no network but "lo".

Facts
-----
* Three virtio-serial ports carry the command's output, its errors, and the reports of the guest
  ("ready", "exit N"); the kernel's console is a serial line and is kept for diagnosis.
* KVM is used on processors that announce VT-x or AMD-V, else TCG, which is about ten times slower
  than the real thing. A KVM guest that does not come up is tried again under TCG.
* The upper directory of an overlay mount cannot lie on the overlay of the root; /run and /tmp do.
* With systemd, process 1 is the host's own /lib/systemd/systemd, and the command runs in a service.
"""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm import initramfs, kernel
from tests.vm.kernel import Unavailable

# Parts of sysinit.target that a job has no use for: they cost time, and systemd-tmpfiles would see
# to directories that are shared with the host.
MASKED_UNITS = (
    *(
        f"systemd-{name}"
        for name in (
            "tmpfiles-setup.service", "tmpfiles-setup-dev.service", "tmpfiles-clean.timer",
            "sysusers.service", "remount-fs.service", "journal-flush.service",
            "update-utmp.service", "timesyncd.service", "modules-load.service",
            "hwdb-update.service", "binfmt.service", "ask-password-console.path",
        )
    ),
    "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    *(
        f"modprobe@{name}.service"
        for name in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")
    ),
)  # fmt: skip


@dataclass
class Job:
    """A command for the machine, and what it gets."""

    words: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    shares: list[Path] = field(default_factory=list)  # may be written to
    systemd: bool = False
    memory: int = 2048  # MiB
    cpus: int = 2
    seconds: float = 300
    boot_seconds: float = 120
    accelerator: str = ""  # kvm or tcg; chosen when empty
    console: bool = False  # shown on standard error


@dataclass
class Outcome:
    """`status` is the command's, None when it has not ended; `failure` then says why."""

    status: int | None = None
    ready: float | None = None  # seconds from the start of QEMU until the command began
    failure: str = ""
    console: bytes = b""


def cache_directory() -> Path:
    """Beside what else the tests have downloaded."""
    from shim_runc_py.testing.generations import cache_directory

    return cache_directory() / "vm"


def run(job: Job) -> Outcome:
    """Boot, run, power off; output goes to ours. Raises Unavailable."""
    if job.systemd:
        for path, package in (
            ("/lib/systemd/systemd", "systemd"),
            ("/usr/bin/dbus-daemon", "dbus"),
        ):
            if not os.path.exists(path):
                raise Unavailable(f"a machine with systemd needs the package {package} here")
    qemu = kernel.tool("qemu-system-x86_64", "qemu-system-x86")
    busybox = kernel.tool("busybox", "busybox-static")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory = kernel.prepare(cache)
        base = initramfs.base(directory, busybox)
    shares = [(f"share{number}", str(path)) for number, path in enumerate(job.shares)]
    last = initramfs.job(
        job.words,
        job.environ,
        cwd=job.cwd,
        systemd=job.systemd,
        modules=str(directory / "modules" / (directory / "version").read_text()),
        shares=shares,
    )
    deadline = time.monotonic() + job.seconds
    accelerators = [job.accelerator] if job.accelerator else ["kvm", "tcg"][not kvm_usable() :]
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="pyrunc-vm-") as scratch:
        initrd = Path(scratch, "initrd")
        shutil.copy(base, initrd)
        with initrd.open("ab") as file:
            file.write(last)
        for accelerator in accelerators:
            command = qemu_command(qemu, job, accelerator, directory, initrd, shares)
            outcome = _run(command, job, deadline)
            if outcome.ready is not None:
                break
    return outcome


def kvm_usable() -> bool:
    """Does KVM rest on the processor's own virtualisation?

    /dev/kvm alone says little: in a sandbox it may belong to a software hypervisor that only runs
    kernels made for it, slowly or not at all.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    return bool(re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.M))


PORTS = ("stdout", "stderr", "status", "console")


def qemu_command(
    qemu: str,
    job: Job,
    accelerator: str,
    directory: Path,
    initrd: Path,
    shares: list[tuple[str, str]],
) -> list[str]:
    """Everything but the ports, which need descriptors."""
    append = [
        "console=ttyS0", "quiet", "loglevel=4", "panic=-1", "reboot=t",
        "cgroup_no_v1=all", "psi=1", "swapaccount=1",
        "random.trust_cpu=on", "no_timer_check", "tsc=reliable", "rdinit=/init",
    ]  # fmt: skip
    if accelerator == "tcg":
        append.append("mitigations=off")
    if job.systemd:
        append += ["systemd.unified_cgroup_hierarchy=1", "systemd.show_status=no"]
        append += ["systemd.log_level=warning", "fstab=no", "luks=no", "systemd.gpt_auto=no"]
        append += [f"systemd.mask={unit}" for unit in MASKED_UNITS]
    words = [
        qemu, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
        "-M", "q35", "-m", f"{job.memory}M", "-smp", str(job.cpus),
        "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi,tb-size=512",
        "-cpu", "host" if accelerator == "kvm" else "max",
        "-kernel", str(directory / "vmlinux"), "-initrd", str(initrd),
        "-append", " ".join(append),
        "-device", "virtio-serial-pci",
    ]  # fmt: skip
    model = "passthrough" if os.geteuid() == 0 else "none"
    for tag, path in [("hostroot", "/"), *shares]:
        place = path.replace(",", ",,")
        last = ",readonly=on" if tag == "hostroot" else ""
        words += [
            "-virtfs",
            f"local,path={place},mount_tag={tag},security_model={model},multidevs=remap{last}",
        ]
    return words


def _port(name: str, descriptor: int) -> list[str]:
    """A descriptor set lets QEMU write to a pipe of ours that it inherits."""
    words = ["-add-fd", f"fd={descriptor},set={descriptor}"]
    words += ["-chardev", f"file,id={name},path=/dev/fdset/{descriptor},append=on"]
    if name == "console":
        return [*words, "-serial", "chardev:console"]
    return [*words, "-device", f"virtserialport,chardev={name},name={name}"]


def _run(command: list[str], job: Job, deadline: float) -> Outcome:
    """Boot once and see it through."""
    outcome = Outcome()
    readers, writers = {}, {}
    for name in PORTS:
        readers[name], writers[name] = os.pipe()
        command = command + _port(name, writers[name])
    started = time.monotonic()
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],
        stdin=subprocess.DEVNULL,
        stdout=writers["console"],
        stderr=writers["console"],
        pass_fds=tuple(writers.values()),
    )
    for descriptor in writers.values():
        os.close(descriptor)
    selector = selectors.DefaultSelector()
    for name, descriptor in readers.items():
        selector.register(descriptor, selectors.EVENT_READ, name)
    reports = b""
    boot_limit = started + job.boot_seconds
    try:
        while selector.get_map():
            limit = deadline if outcome.ready is not None else min(deadline, boot_limit)
            now = time.monotonic()
            if now >= limit:
                kind = "the command did not end" if outcome.ready else "the machine did not come up"
                outcome.failure = f"{kind} within {limit - started:.0f} s"
                break
            for key, _ in selector.select(limit - now):
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                elif key.data == "console":
                    outcome.console = (outcome.console + data)[-65536:]
                    if job.console:
                        _write(2, data)
                elif key.data == "status":
                    *whole, reports = (reports + data).split(b"\n")
                    for line in whole:
                        _report(outcome, line.decode(), started)
                    if outcome.status is not None:
                        deadline = min(deadline, time.monotonic() + 10)  # to power off
                else:
                    _write(1 if key.data == "stdout" else 2, data)
    finally:
        # Every way out ends QEMU, and waits for it.
        if process.poll() is None and selector.get_map():
            process.kill()
        process.wait()
        for descriptor in readers.values():
            os.close(descriptor)
        selector.close()
    if outcome.status is None and not outcome.failure:
        outcome.failure = "the machine stopped before the command ended"
    return outcome


def _report(outcome: Outcome, line: str, started: float) -> None:
    word, _, rest = line.partition(" ")
    if word == "ready":
        outcome.ready = time.monotonic() - started
    elif word == "exit":
        outcome.status = int(rest)
    elif word == "fail":
        outcome.failure = rest


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
