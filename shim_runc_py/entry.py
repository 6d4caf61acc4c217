"""The first module of every command: hand it to the zygote if there is one, else run it here.

containerd executes the binary two or three times for each container, and most of what that costs
is the start of an interpreter and its imports. So this module imports nothing but two built-in
modules, and when a zygote is at its socket (`shim/zygote.py`) nothing else is ever imported: the
zygote forks, and the fork does what was asked for, as the process that is here would have done it.
`packaging/launcher.c` does the same without an interpreter; both know the two formats below.

The zygote is an accelerator and never a dependency: whatever is not as expected ends here with
None, and the command runs in this process. That is safe at any point, also when the zygote has
begun: a second `start` finds the socket of the first, and `delete` can be repeated.

Formats
-------
* Where: a socket in DIRECTORY whose name is the FNV-1a hash, as 16 hex digits, of the text
  "LAUNCHER\\nINODE SIZE MTIME_NS\\nUID\\n" (the launcher's path and stat), the inodes of
  NAMESPACES in /proc/self/ns, each with a newline, and the contents of /proc/self/cgroup. So a
  forked shim has the namespaces and the cgroup that an executed one would have, and another
  version of the package has another zygote.
* What: one byte, the number of words in /proc/PID/cmdline before the arguments; then the bytes of
  standard input, for `start`; then the sending side is closed. Everything else the kernel tells
  about the process at the other end.
* Answer: "+" when the request is accepted; then the exit status (one byte), the length of what goes
  to standard output (four bytes, little endian), that, and what goes to standard error.

In the launcher's import budget.
"""

import posix
import sys

DIRECTORY = "/run/containerd/pyrunc"
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
ACCEPT_BOUND = 2.0  # seconds until "+"
ANSWER_BOUND = 15.0  # seconds until the rest
MOST_INPUT = 10 << 20


def main() -> None:
    """Run what the command line asks for, and exit with its status."""
    reply = None
    place = directory(posix.environ.get(b"PYRUNC_ZYGOTE", b"").decode("utf-8", "replace"))
    action = sys.argv[-1]
    given = read_input() if action == "start" else b""
    if place and action in ("start", "delete"):
        try:
            reply = ask(place, given)
        except (FileNotFoundError, ConnectionRefusedError):
            if action == "start":
                reply = ask_first(place, given)
        except OSError:
            pass
    if reply is None:
        from shim_runc_py.shim import roles

        reply = roles.main(sys.argv, given)
    status, output, complaint = reply
    for fd, data in (1, output), (2, complaint):
        while data:
            try:
                data = data[posix.write(fd, data) :]
            except OSError:
                break
    posix._exit(status)


def directory(setting: str) -> str:
    """The zygote's directory by the variable PYRUNC_ZYGOTE; "" turns it off."""
    if not setting:
        return DIRECTORY
    return setting if setting.startswith("/") else ""


def read_input() -> bytes:
    """Standard input to its end, and a little more than is allowed if it is too much."""
    parts = []
    size = 0
    while size <= MOST_INPUT:
        try:
            part = posix.read(0, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def ask(place: str, given: bytes) -> tuple[int, bytes, bytes] | None:
    """(status, output, complaint) from the zygote; None or OSError when it did not work out."""
    import _socket

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(ACCEPT_BOUND)
        connection.connect(place + "/" + name(sys.argv[0]))
        raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if int.from_bytes(raw[4:8], sys.byteorder) != posix.geteuid():
            return None
        before = len(sys.orig_argv) - len(sys.argv) + 1
        connection.sendall(bytes((before,)) + given)
        connection.shutdown(_socket.SHUT_WR)
        if connection.recv(1) != b"+":
            return None
        connection.settimeout(ANSWER_BOUND)
        data = b""
        while part := connection.recv(65536):
            data += part
    finally:
        connection.close()
    end = 5 + int.from_bytes(data[1:5], "little")
    if len(data) < 5 or len(data) < end:
        return None
    return data[0], data[5:end], data[end:]


def ask_first(place: str, given: bytes) -> tuple[int, bytes, bytes] | None:
    """The same when nobody is there: start the zygote, and be its first caller."""
    from shim_runc_py.shim import zygote

    try:
        zygote.begin(place, name(sys.argv[0]))
        return ask(place, given)
    except (OSError, zygote.Unsafe):
        return None


def name(launcher: str) -> str:
    """The name of the zygote's socket for this process; raises OSError."""
    found = posix.stat(launcher)
    text = f"{launcher}\n{found.st_ino} {found.st_size} {found.st_mtime_ns}\n{posix.geteuid()}\n"
    for kind in NAMESPACES:
        try:
            text += f"{posix.stat('/proc/self/ns/' + kind).st_ino}\n"
        except FileNotFoundError:
            text += "0\n"
    fd = posix.open("/proc/self/cgroup", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return fnv(text.encode("utf-8", "surrogateescape") + posix.read(fd, 65536))
    finally:
        posix.close(fd)


def fnv(data: bytes) -> str:
    """The 64-bit FNV-1a hash, as 16 hex digits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"
