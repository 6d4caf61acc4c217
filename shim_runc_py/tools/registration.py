"""`pyrunc install` and containerd: register the handler, and take it away again.

    read the files -> the new texts -> containerd dumps both -> write -> restart -> CRI is back
                                       differ only by the handler?          else the old files

Nothing is written before containerd itself has read the new text from a file beside the old one,
and its dump shows the handler and else what it showed before. The old config.toml is kept beside it
until `pyrunc uninstall`. containerd is restarted only if a file has changed and somebody asked for
it; should it not come up, the old files come back and it is restarted with them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from shim_runc_py.tools import containerd, handler
from shim_runc_py.tools.containerd import Containerd, ContainerdError
from shim_runc_py.tools.handler import Handler, Refused

CONFIG = Path("/etc/containerd/config.toml")
DROP_IN = "conf.d/pyrunc.toml"
BACKUP = ".before-pyrunc"

Files = dict[Path, str | None]  # None: is not there


def register(config: Path, wanted: Handler, daemon: Containerd, restart: str = "") -> list[str]:
    """Make `wanted` a handler. Returns what was done; raises Refused."""
    return _change(config, wanted, daemon, restart, present=True)


def unregister(config: Path, name: str, daemon: Containerd, restart: str = "") -> list[str]:
    """Remove what `register` wrote. Returns what was done; raises Refused."""
    return _change(config, Handler(name), daemon, restart, present=False)


def _change(
    config: Path, wanted: Handler, daemon: Containerd, restart: str, *, present: bool
) -> list[str]:
    drop_in = config.parent / DROP_IN
    before: Files = {path: _read(path) for path in (config, drop_in)}
    if present and before[config] is None and daemon.program is None:
        return [f"no containerd and no {config} here: handler {wanted.name} is not registered"]
    if present:
        after = planned(config, before, wanted, daemon)
    else:
        after = planned_without(config, before, wanted.name)
    if after == before:
        if present:
            return [f"handler {wanted.name} is in {config.parent} already"]
        _remove(_backup(config))
        return []
    said = [
        _told(path, before[path], after[path]) for path in before if before[path] != after[path]
    ]
    address = _compare(config, before, after, wanted, daemon, present=present)
    if not daemon.program:
        said.append("no containerd in PATH: it has not read the new configuration")
    running = bool(restart) and daemon.serves(address)
    original = before[config]
    if present and original is not None and not _backup(config).exists():
        _write(_backup(config), handler.without_block(original, str(config)), like=config)
    _put(after)
    if running:
        try:
            daemon.restart(restart, address)
        except ContainerdError as error:
            raise Refused(_rolled_back(before, daemon, restart, address, error)) from None
        said.append(f"containerd is restarted (`{restart}`) and serves CRI")
    elif restart:
        said.append("containerd did not serve CRI before, so it is not restarted")
    else:
        said.append(f"restart containerd now: {containerd.RESTART}")
    if not present:
        _remove(_backup(config))
    return said


def planned(config: Path, before: Files, wanted: Handler, daemon: Containerd) -> Files:
    """The files with the handler. Raises Refused."""
    drop_in = config.parent / DROP_IN
    text = handler.without_block(before[config] or "", str(config))
    table = handler.parse(text, str(config))
    if before[drop_in] is not None and handler.BEGIN not in (before[drop_in] or ""):
        raise Refused(f"{drop_in} is there and `pyrunc install` did not write it: remove it")
    version = handler.version_of(table, str(config))
    handler.check(table, str(config), wanted.name)
    for path in sorted((config.parent / "conf.d").glob("*.toml")):
        if path != drop_in:
            handler.check(handler.parse(path.read_text(), str(path)), str(path), wanted.name)
    if handler.takes_drop_in(table, version, config, drop_in):
        return {config: text, drop_in: handler.drop_in(wanted, version)}
    dump = _read_by(daemon, config, text) if daemon.program else None
    kept = handler.forgotten(table, version, dump)
    return {config: handler.with_block(text, wanted, version, kept), drop_in: None}


def planned_without(config: Path, before: Files, name: str) -> Files:
    """The files without what `pyrunc install` wrote. Raises Refused."""
    drop_in = config.parent / DROP_IN
    text = handler.without_block(before[config] or "", str(config))
    table = handler.parse(text, str(config))
    if text != (before[config] or "") and name in handler.runtimes(table):
        raise Refused(f"{config} has tables of {name} outside of the block: remove them first")
    ours = handler.BEGIN in (before[drop_in] or "")
    made = before[config] is None or (not text and before[config] != "")
    return {config: None if made else text, drop_in: None if ours else before[drop_in]}


def _read_by(daemon: Containerd, config: Path, text: str) -> dict[str, Any]:
    """What containerd makes of a configuration that stood in the place of `config`.

    Raises Refused.
    """
    trial = config.with_name(f".{config.name}.pyrunc-trial")
    made = not config.parent.exists()
    try:
        # Without a file containerd has its defaults; so it has with one that has a version only.
        _write(trial, text if handler.parse(text, str(config)) else "version = 2\n", like=config)
        return daemon.dump(trial)
    except ContainerdError as error:
        raise Refused(f"{config}: {error}; nothing was changed") from None
    finally:
        _remove(trial)
        if made:
            shutil.rmtree(config.parent, ignore_errors=True)


def _compare(
    config: Path, before: Files, after: Files, wanted: Handler, daemon: Containerd, *, present: bool
) -> str:
    """Let containerd read old and new; returns the address of its socket.

    Raises Refused when they differ in anything but the handler.
    """
    if daemon.program is None:
        return containerd.address_of({})
    text = after[config] or ""
    if after[config.parent / DROP_IN] is not None:  # the drop-in is not there yet
        version = handler.version_of(handler.parse(text, str(config)), str(config))
        text = handler.with_block(text, wanted, version, {})
    old = _read_by(daemon, config, before[config] or "")
    new = _read_by(daemon, config, text)
    address = containerd.address_of(new)
    found = handler.runtimes(new).get(wanted.name)
    if present and (found or {}).get("runtime_type") != handler.RUNTIME_TYPE:
        raise Refused(
            f"containerd would not see the handler {wanted.name} in {config}: does an imported "
            "file replace the tables of CRI? Nothing was changed"
        )
    if handler.without_runtime(old, wanted.name) != handler.without_runtime(new, wanted.name):
        changed = ", ".join(sorted(key for key in old | new if old.get(key) != new.get(key)))
        raise Refused(f"{config}: settings of {changed} would change, too; nothing was changed")
    return address


def _rolled_back(
    before: Files, daemon: Containerd, restart: str, address: str, error: ContainerdError
) -> str:
    _put(before)
    try:
        daemon.restart(restart, address)
    except ContainerdError as second:
        return f"{error}; the old files are back, but containerd is not: {second}"
    return f"{error}; the old files are back, and containerd serves CRI with them"


# -- files


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: {error}") from None


def _put(files: Files) -> None:
    for path, text in files.items():
        if text is None:
            _remove(path)
        elif text != _read(path):
            _write(path, text, like=path)


def _write(path: Path, text: str, *, like: Path) -> None:
    """Replace a file at once; owner and mode are those of `like` where it exists."""
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.pyrunc-new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text)
        fresh.chmod(0o644)
        if like.exists():
            shutil.copymode(like, fresh)
            found = like.stat()
            os.chown(fresh, found.st_uid, found.st_gid)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Refused(f"{path}: {error.strerror}; try sudo") from None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; try sudo") from None


def _backup(config: Path) -> Path:
    return config.with_name(config.name + BACKUP)


def _told(path: Path, old: str | None, new: str | None) -> str:
    if new is None:
        return f"removed {path}"
    if old is None:
        return f"wrote {path}"
    return f"{path}: handler {'added' if handler.BEGIN in new else 'removed'}"
