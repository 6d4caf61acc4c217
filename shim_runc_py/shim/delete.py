"""`delete`: clean up after a task whatever has become of its shim (SEMANTICS 10.1, CONTRACT 2.9).

containerd executes it after every task, also after one that was deleted properly, and kills it
after 5 s. So nothing here is an error: what is not there has been cleaned up already, and what
cannot be done in time is said on standard error. It affects the one task that -id names, and never
a serving shim, which may have other containers.

In the launcher's import budget: neither json nor protobuf is loaded unless needed.
"""

import os
import time

from shim_runc_py.shim import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from shim_runc_py.shim.flags import Flags
else:
    import _signal as signal

BOUND = 4.2  # seconds; containerd's own bound for the whole command is 5
ENGINE_BOUND = 3.0  # of these for the engine; what it leaves is ended without it
KILLED = 128 + 9  # the exit status when nobody knows better
_MOST_READ = 1 << 20
_TYPE, _REGULAR = 0o170000, 0o100000  # S_IFMT and S_IFREG


def run(flags: "Flags", environ: "Mapping[str, str]") -> tuple[bytes, bytes]:
    """(serialized DeleteResponse, what went wrong). Never raises for what it finds."""
    began = time.monotonic()
    bundle = _bundle(flags)
    complaints = _delete_container(bundle, flags, environ)
    left = BOUND - (time.monotonic() - began)
    complaints += _unmount(f"{bundle}/rootfs", min(left, 2.5))
    status, at, pid = _exit_record(bundle)
    text = "".join(f"{line}\n" for line in complaints)
    return encode(pid, status, at), text.encode("utf-8", "replace")


def encode(pid: int, status: int, at: int) -> bytes:
    """A DeleteResponse; `at` in nanoseconds since 1970."""
    seconds, nanos = divmod(at, 1_000_000_000)
    exited_at = wire.number(1, seconds) + wire.number(2, nanos)
    return wire.number(1, pid) + wire.number(2, status) + wire.text(3, exited_at)


def _bundle(flags: "Flags") -> str:
    """The bundle of -id: a sibling of the working directory, which is usually the same."""
    try:
        return f"{os.path.dirname(os.getcwd())}/{flags.id}"
    except FileNotFoundError:
        return flags.bundle


def _read(path: str) -> str:
    """A file of ours, "" for anything else that lies at its place (SECURITY 19).

    Neither a symlink nor somebody else's file, and nothing whose open or read would wait.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError:
        return ""
    try:
        found = os.fstat(fd)
        ours = found.st_uid == os.geteuid() and found.st_size <= _MOST_READ
        if found.st_mode & _TYPE != _REGULAR or not ours:
            return ""
        return os.read(fd, _MOST_READ).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _delete_container(bundle: str, flags: "Flags", environ: "Mapping[str, str]") -> list[str]:
    from shim_runc_py.runc import argv

    complaints = []
    binary = _read(f"{bundle}/runtime") or argv.DEFAULT_BINARY
    base = ""
    text = _read(f"{bundle}/options.json")
    if '"root"' in text:
        import json

        try:
            base = str(json.loads(text).get("root", ""))
        except (ValueError, AttributeError):
            complaints.append(f"{bundle}/options.json cannot be read; using the default root")
    root = argv.root(base, flags.namespace)
    if os.path.basename(binary) in argv.KNOWN_ENGINES and not os.path.exists(f"{root}/{flags.id}"):
        return complaints
    log = f"{bundle}/log.json"
    words = [*argv.common(binary, root, log), *argv.delete(flags.id, force=True)]
    _end_engines(log)
    return complaints + _run_engine(words, environ) + _sweep(bundle, flags.id)


def _sweep(bundle: str, id: str) -> list[str]:
    """End and remove what the engine has not: it may be gone, hang, or have died in its create."""
    from shim_runc_py.linux import remains
    from shim_runc_py.runc import spec

    try:
        path = spec.own_cgroup(spec.read(bundle), id)
        tops = remains.directories(path) if path else []
    except (OSError, ValueError):
        return []
    for _ in range(200):  # a second
        if remains.sweep(tops):
            return []
        time.sleep(0.005)
    return [f"failed to remove cgroup {path}: there are processes that do not die"]


def _end_engines(log: str) -> None:
    """Kill what a dead shim has left of engine commands for this bundle, known by their log."""
    wanted = f"\0--log\0{log}\0".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                pidfd = os.pidfd_open(int(name))
            except OSError:
                continue
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found = wanted in file.read(65536)
                if found:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(pidfd)


def _run_engine(words: list[str], environ: "Mapping[str, str]") -> list[str]:
    from shim_runc_py.linux import spawn, wait
    from shim_runc_py.runc import argv

    complaint = "failed to remove runc container"
    executable = spawn.find(words[0], environ.get("PATH", ""))
    if executable is None:
        return [f"{complaint}: {words[0]} not found"]
    output = os.memfd_create("engine-output", os.MFD_CLOEXEC)
    child = spawn.spawn(
        words, executable, argv.environment(environ), spawn.Streams(-1, output, output)
    )
    try:
        status = wait.within(child.pid, ENGINE_BOUND)
        if status is None:
            os.killpg(child.pid, 9)
            wait.within(child.pid, 1.0)
            return [f"{complaint}: no answer within {ENGINE_BOUND:g} s"]
        if status:
            trouble = child.failure()
            said = os.pread(output, 65536, 0).decode("utf-8", "replace")
            reason = trouble.words if trouble else said.strip()
            return [f"{complaint}: exit status {status}: {reason}"]
    finally:
        child.close()
        os.close(output)
    return []


def _unmount(rootfs: str, seconds: float) -> list[str]:
    from shim_runc_py.linux import procfs

    parent = procfs.canonical(os.path.dirname(rootfs))
    if parent is None or not procfs.own_mount_points(f"{parent}/rootfs"):
        return []
    from shim_runc_py.linux import unmounts

    try:
        unmounts.unmount_below(rootfs, seconds)
    except OSError as error:
        return [f"failed to cleanup rootfs mount: {error.strerror}"]
    return []


def _exit_record(bundle: str) -> tuple[int, int, int]:
    """(status, time in ns, pid): what the shim recorded, else 137, now, and the pid file's."""
    try:
        status, at, pid = (int(word) for word in _read(f"{bundle}/init.exit").split())
    except ValueError:
        pass
    else:
        return status, at, pid
    try:
        pid = int(_read(f"{bundle}/init.pid"))
    except ValueError:
        pid = 0
    return KILLED, time.time_ns(), pid if 0 < pid < 1 << 22 else 0  # PID_MAX_LIMIT
