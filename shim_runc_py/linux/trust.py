"""Could somebody else have changed a file that root is about to run? (SECURITY 20, 33)

Asked in strict mode (PYRUNC_STRICT=1) before an engine, a logger or the shim itself runs, and by
`pyrunc check`. A file is ours when it and every directory on the way to it, through all symlinks,
belong to root or to our own user, and when nobody else may write to them. In a directory with the
sticky bit others may only add names, not change those that are there.
"""

from __future__ import annotations

import os

_LINK, _DIRECTORY, _TYPE, _STICKY, _OTHERS_WRITE = 0o120000, 0o040000, 0o170000, 0o1000, 0o022


def doubt(path: str) -> str:
    """Why `path` may be somebody else's work, with the file or directory in it; "" if it is not."""
    if not path.startswith("/"):
        return f"{path} is no absolute path"
    owners = (0, os.geteuid())
    for way in (path, os.path.realpath(path)):
        names = way.split("/")
        for depth in range(1, len(names) + 1):
            place = "/".join(names[:depth]) or "/"
            try:
                found = os.lstat(place)
            except OSError as error:
                return f"{place}: {(error.strerror or '').lower()}"
            kind = found.st_mode & _TYPE
            if found.st_uid not in owners:
                return f"{place} belongs to user {found.st_uid}"
            if kind == _LINK or (kind == _DIRECTORY and found.st_mode & _STICKY):
                continue
            if found.st_mode & _OTHERS_WRITE:
                return f"{place} can be changed by others"
    return ""
