"""Loop devices: a file as a block device, without any process (SEMANTICS 3.4).

Kernel facts (loop(4))
----------------------
* LOOP_CTL_GET_FREE only names a device that is free now; whoever configures it first has it, the
  others get EBUSY and ask again.
* With LO_FLAGS_AUTOCLEAR the device is given back at its last close, and a mount keeps it open: so
  nothing has to be undone at unmount, and the descriptor has to outlive mount(2), or the device is
  gone before it is mounted.
* LOOP_CONFIGURE (Linux 5.8) does in one step what LOOP_SET_FD and LOOP_SET_STATUS64 do in two.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from shim_runc_py.errors import words

CONTROL = "/dev/loop-control"
TRIES = 100

_SET_FD, _CLR_FD, _SET_STATUS64, _SET_DIRECT_IO = 0x4C00, 0x4C01, 0x4C04, 0x4C08
_CONFIGURE, _GET_FREE = 0x4C0A, 0x4C82
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
# struct loop_info64 up to lo_flags and lo_file_name; the rest stays zero.
_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG = struct.Struct(f"=2I{_INFO.size}s8Q")


def attach(path: str, *, read_only: bool = False, direct_io: bool = False) -> tuple[int, str]:
    """(descriptor, path) of a loop device on the file `path`.

    The caller closes the descriptor once the device is mounted. Raises OSError.
    """
    access = os.O_RDONLY if read_only else os.O_RDWR
    try:
        backing = os.open(path, access | os.O_CLOEXEC)
    except OSError as error:
        text = f"could not open backing file: open {path}: {words(error)}"
        raise OSError(error.errno, text) from None
    try:
        flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0) | (_DIRECT_IO if direct_io else 0)
        info = _INFO.pack(*[0] * 8, flags, os.fsencode(path)[:63], b"", b"", 0, 0)
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            return _attach(control, backing, access, info, direct_io)
        finally:
            os.close(control)
    finally:
        os.close(backing)


def _attach(
    control: int, backing: int, access: int, info: bytes, direct_io: bool
) -> tuple[int, str]:
    for tried in range(TRIES):
        name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
        device = os.open(name, access | os.O_CLOEXEC)
        try:
            _configure(device, backing, info, direct_io)
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:
                raise
            # Somebody was faster. Who waits how long is left to chance, or all meet again.
            time.sleep(int.from_bytes(os.urandom(1), "big") / 256 * 0.001 * (tried + 1))
        except BaseException:
            os.close(device)
            raise
        else:
            return device, name
    raise OSError(errno.EBUSY, "timeout creating new loopback device")


def _configure(device: int, backing: int, info: bytes, direct_io: bool) -> None:
    try:
        fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, 0, info, *[0] * 8))
        return
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
    fcntl.ioctl(device, _SET_FD, backing)
    try:
        fcntl.ioctl(device, _SET_STATUS64, info)
        if direct_io:
            fcntl.ioctl(device, _SET_DIRECT_IO, 1)
    except BaseException:
        fcntl.ioctl(device, _CLR_FD)
        raise
