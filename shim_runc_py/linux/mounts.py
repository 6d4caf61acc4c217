"""Mount a bundle's rootfs, as containerd's mount lists ask for it (SEMANTICS 3.4).

Run in a child process (`linux.spawn`), because a mount may take as long as a slow disk wants to,
and because namespaces and the working directory change on the way. What options mean is worked out
in `mount_options`, undoing is in `unmounts`.

Kernel facts
------------
* A read-only bind takes two calls: MS_RDONLY is ignored by the first one. In a user namespace the
  second one fails with EPERM unless it repeats the flags that the source is locked with.
* A mount lands on top of whatever is mounted at the place already, also when the place is given
  as /proc/self/fd/N of a directory below. Places are opened without following any symlink, so a
  link put at `rootfs` or into an image leads nowhere (SECURITY 13, 15).
"""

from __future__ import annotations

import errno
import os
import stat

from shim_runc_py.errors import words
from shim_runc_py.linux import libc, spawn, unmounts, wait
from shim_runc_py.linux import mount_options as o

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shim_runc_py.linux.mount_options import Entry

HELPER_BOUND = 30.0  # seconds for a program that mounts
_DETACH = 2
# What a bind may be locked with, and their names in statvfs(3): the bits are the same.
_LOCKABLE = o.RDONLY | o.NOSUID | o.NODEV | o.NOEXEC | o.NOATIME | o.NODIRATIME
_ST_RELATIME = 4096


def mount_all(entries: Sequence[Entry], rootfs: str, environ: Mapping[str, str]) -> None:
    """Mount `entries` in order onto `rootfs`. On failure nothing of it stays mounted.

    `environ` is for programs that mount. Raises OSError and ValueError.
    """
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        for entry in entries:
            mount(entry, rootfs, environ)
    except BaseException:
        try:
            unmounts.unmount_below(rootfs)
        except OSError:
            pass  # the first trouble is the one to tell; the caller undoes it once more
        raise
    finally:
        os.fchdir(here)  # also where a long overlay was mounted from
        os.close(here)


def mount(entry: Entry, rootfs: str, environ: Mapping[str, str]) -> None:
    """Mount one entry. Raises OSError with the stock shim's description of the mount."""
    with _Place(rootfs, entry.target):
        pass  # a place that cannot be has an error of its own
    found = o.helper(entry)
    if found is not None:
        with _Place(rootfs, entry.target) as place:
            argv = o.helper_argv(entry, *found, os.readlink(place.path))
        _run_helper(argv, environ)
        return
    id_maps = o.Options(entry.options).id_maps
    namespace = -1
    if id_maps is not None:
        from shim_runc_py.linux import idmap

        namespace = idmap.user_namespace(*id_maps)
    try:
        if id_maps is None:
            _mount_plain(entry, rootfs)
        elif entry.kind == "overlay":
            _mount_mapped_overlay(entry, rootfs, namespace)
        else:
            _mount_plain(entry, rootfs)
            _map_in_place(rootfs, entry.target, namespace)
    finally:
        if namespace >= 0:
            os.close(namespace)


def _mount_plain(entry: Entry, rootfs: str) -> None:
    given = list(entry.options)
    if entry.kind == "overlay":
        directory, given = o.shorten_overlay(given, _page() - 512)
        if directory:
            os.chdir(directory)
    _mount(entry, rootfs, o.Options(given))


def _mount(entry: Entry, rootfs: str, options: o.Options) -> None:
    """The calls of mount(2) for one entry, with a loop device in between if it is wanted."""
    flags, data = options.flags, options.data
    if len(data) >= _page():
        raise ValueError("mount options is too long")
    source, device = entry.source, -1
    try:
        if options.loop and not flags & o.REMOUNT:
            from shim_runc_py.linux import loopdev

            read_only = bool(flags & o.RDONLY)
            device, source = loopdev.attach(
                source, read_only=read_only, direct_io=options.direct_io
            )
        if not flags & o.REMOUNT or data:
            with _Place(rootfs, entry.target) as place:
                libc.mount(source, place.path, entry.kind, flags, data)
        if flags & (o.BIND | o.RDONLY) == o.BIND | o.RDONLY:
            with _Place(rootfs, entry.target) as place:
                _remount_read_only(place.path, flags)
    except OSError as error:
        raise OSError(
            error.errno,
            f'mount source: "{entry.source}", target: "{rootfs}", fstype: {entry.kind}, '
            f'flags: {flags}, data: "{data}", err: {words(error)}',
        ) from None
    finally:
        if device >= 0:
            os.close(device)


def _remount_read_only(place: str, flags: int) -> None:
    flags |= o.REMOUNT
    try:
        libc.mount("", place, "", flags, "")
    except PermissionError:
        locked = os.statvfs(place).f_flag
        flags |= locked & _LOCKABLE
        if locked & _ST_RELATIME:
            flags |= o.RELATIME
        libc.mount("", place, "", flags, "")


def _map_in_place(rootfs: str, target: str, namespace: int) -> None:
    """Replace what is mounted at the place by an idmapped copy of it."""
    from shim_runc_py.linux import idmap

    with _Place(rootfs, target) as place:
        tree = idmap.copy(place.path, namespace)
    try:
        with _Place(rootfs, target) as place:
            # Our own of a moment ago; detached, since rbind may have brought mounts below it.
            libc.umount2(place.path, _DETACH)
        with _Place(rootfs, target) as place:
            libc.move_mount(tree, place.fd)
    finally:
        os.close(tree)


def _mount_mapped_overlay(entry: Entry, rootfs: str, namespace: int) -> None:
    """An overlay whose lower layers are idmapped; its upper one belongs to the right ids already.

    The layers' common directory appears, idmapped, at the place itself, in a namespace that nobody
    else sees; the overlay is mounted over it with names relative to it.
    """
    from shim_runc_py.linux import idmap

    lowers, others = o.split_lowers(entry.options)
    if not lowers:
        raise ValueError("idmapped overlay has no lower directory")
    found = o.relative_lowers(lowers)
    if found is None:
        raise ValueError(f"no common directory of {':'.join(lowers)} to be idmapped")
    common, names = found
    options = o.Options([*others, "lowerdir=" + ":".join(names)])

    def make() -> int:
        tree = idmap.copy(common, namespace, read_only=True)
        try:
            with _Place(rootfs, entry.target) as place:
                libc.move_mount(tree, place.fd)
        finally:
            os.close(tree)
        with _Place(rootfs, entry.target) as place:
            os.fchdir(place.fd)
        _mount(entry, rootfs, options)
        with _Place(rootfs, entry.target) as place:
            return libc.open_tree(place.fd)

    made = idmap.in_private_namespace(make)
    try:
        with _Place(rootfs, entry.target) as place:
            libc.move_mount(made, place.fd)
    finally:
        os.close(made)


def _run_helper(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """mount.fuse(8) and the like; the program goes on serving in a process of its own."""

    def failed(said: str, why: str) -> OSError:
        line = " ".join(argv[1:])
        return OSError(errno.EIO, f'mount helper [{argv[0]} [{line}]] failed: "{said}": {why}')

    executable = spawn.find(argv[0], environ.get("PATH", ""))
    if executable is None:
        raise failed("", f'exec: "{argv[0]}": executable file not found in $PATH')
    output = os.memfd_create("helper-output", os.MFD_CLOEXEC)
    try:
        child = spawn.spawn(argv, executable, environ, spawn.Streams(-1, output, output))
        try:
            status = wait.within(child.pid, HELPER_BOUND)
            if status is None:
                os.killpg(child.pid, 9)
                raise failed("", f"no end within {HELPER_BOUND:g} s")
            trouble = child.failure()
            if trouble is not None:
                raise failed("", trouble.words)
            if status:
                said = os.pread(output, 65536, 0).decode("utf-8", "replace")
                raise failed(said, f"exit status {status}")
        finally:
            child.close()
    finally:
        os.close(output)


def _page() -> int:
    return os.sysconf("SC_PAGESIZE")


class _Place:
    """The place to mount on, as a descriptor and as a path that cannot be led elsewhere."""

    def __init__(self, rootfs: str, inside: str) -> None:
        self._rootfs = rootfs
        self._inside = inside
        self.fd = -1

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    def __enter__(self) -> _Place:
        names = [name for name in self._inside.split("/") if name not in ("", ".")]
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if ".." in names:
                raise OSError(errno.EINVAL, "it leaves the rootfs")
            self.fd = os.open(self._rootfs, flags | os.O_DIRECTORY)
            for name in names:
                above = self.fd
                self.fd = -1
                try:
                    self.fd = os.open(name, flags, dir_fd=above)
                finally:
                    os.close(above)
                # The next step would refuse it, but the last name may be a file, too.
                if stat.S_ISLNK(os.fstat(self.fd).st_mode):
                    raise OSError(errno.ELOOP, "it has a symlink on the way")
        except OSError as error:
            self.__exit__()
            text = f"open {self._rootfs}"
            if names:
                text = f'failed to join path "{self._inside}" with root "{self._rootfs}"'
            raise OSError(error.errno, f"{text}: {words(error)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
