"""The handler's entry in containerd's configuration, as text. Pure.

What is written is a marked block at the end of config.toml, so comments and layout of the rest stay
as they are and removing the block gives the old bytes back. Where config.toml imports conf.d and is
of version 3 or later, it is a file of its own there.

Facts of containerd
-------------------
* The CRI plugin's table is io.containerd.grpc.v1.cri in files of version 2, and
  io.containerd.cri.v1.runtime from version 3 on (CONTRACT 1.2). containerd 2 reads version 2, too.
* containerd 1.x replaces a plugin's whole table by that of an imported file: a drop-in that has the
  handler only would drop every other setting of CRI. containerd 2 merges them.
* containerd 1.x forgets its default handler, runc, when the file names another one, and CRI does
  not start then: what it would forget is written into the block, too. containerd 2 merges.
* Without `version` a file is of version 1, which names tables differently; 2.0 ended that.
* In TOML a table may be defined after the tables below it, so the block can always be the last.
"""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

RUNTIME_TYPE = "io.containerd.pyrunc.v2"
DEFAULT = {"runc": {"runtime_type": "io.containerd.runc.v2"}}
BEGIN = "# begin: made by `pyrunc install`, removed by `pyrunc uninstall`; edit outside of it"
END = "# end: made by `pyrunc install`"
_TABLES = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
_DISABLING = {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}
_BLOCK = re.compile(rf"\n?{re.escape(BEGIN)}\n.*?{re.escape(END)}\n", re.DOTALL)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Refused(Exception):
    """The configuration is left alone; the text says why and what to do."""


@dataclass
class Handler:
    """A handler of RuntimeClasses; `path` is the shim's when containerd would not find it."""

    name: str = "pyrunc"
    path: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Refused(
                f'"{self.name}" cannot be the handler of a RuntimeClass: lower-case letters, '
                "digits and - only"
            )

    def entry(self, version: int) -> str:
        """The table for a file of that version."""
        table: dict[str, Any] = {"runtime_type": RUNTIME_TYPE}
        if self.path:
            table["runtime_path"] = self.path
        return entry(self.name, table, version)


def entry(name: str, table: dict[str, Any], version: int) -> str:
    """A handler as TOML; JSON's strings, numbers, booleans and lists of them are TOML's, too."""
    path = f'plugins."{_TABLES[min(version, 3)]}".containerd.runtimes.{name}'
    options = table.get("options") or {}
    lines = [f"[{path}]"]
    lines += [f"  {k} = {json.dumps(v)}" for k, v in table.items() if v and k != "options"]
    if options:
        lines += [f"[{path}.options]", *(f"  {k} = {json.dumps(v)}" for k, v in options.items())]
    return "".join(line + "\n" for line in lines)


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of a file called `name`. Raises Refused."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{name} is no TOML: {error}; nothing was changed") from None


def version_of(table: dict[str, Any], name: str) -> int:
    """The configuration's version; 2, which all understand, for an empty one. Raises Refused."""
    version = table.get("version", 1 if table else 2)
    if not isinstance(version, int) or version < 2:
        raise Refused(
            f"{name} is of version 1, which names tables differently: write it anew with "
            "`containerd config migrate`, or set version = 2 if it has no tables of plugins"
        )
    return version


def check(table: dict[str, Any], name: str, handler: str) -> None:
    """May `handler` be added to this file? Raises Refused."""
    off = _DISABLING.intersection(table.get("disabled_plugins") or [])
    if off:
        raise Refused(f'{name} turns CRI off: take "{off.pop()}" out of disabled_plugins first')
    entry = runtimes(table).get(handler)
    if isinstance(entry, dict) and "runtime_type" in entry:
        raise Refused(
            f'{name} has a handler "{handler}" already, of type {entry["runtime_type"]}, that '
            "`pyrunc install` did not write: remove it, or choose another name with --handler"
        )


def runtimes(table: dict[str, Any]) -> dict[str, Any]:
    """Every handler that a file or a dump has, by name; a copy."""
    found: dict[str, Any] = {}
    for key in _TABLES.values():
        here: Any = table
        for step in ("plugins", key, "containerd", "runtimes"):
            here = here.get(step) if isinstance(here, dict) else None
        found.update(here or {})
    return found


def without_runtime(table: dict[str, Any], handler: str) -> dict[str, Any]:
    """A dump without one handler and without what tells where it was read from; changes it."""
    table.pop("imports", None)
    for key in _TABLES.values():
        here: Any = table
        for step in ("plugins", key, "containerd", "runtimes"):
            here = here.get(step) if isinstance(here, dict) else None
        if here:
            here.pop(handler, None)
    return table


def without_block(text: str, name: str) -> str:
    """The text as it was before `with_block`. Raises Refused."""
    text = _BLOCK.sub("", text)
    if BEGIN in text or END in text:
        raise Refused(f"one of the marks of pyrunc's block in {name} is missing: remove the rest")
    return text


def with_block(text: str, handler: Handler, version: int, kept: dict[str, Any]) -> str:
    """The text with the handler at its end; without keys it is a file of `version` then.

    `kept` are the handlers that would be forgotten. Raises Refused.
    """
    head = "" if tomllib.loads(text) else f"version = {version}\n"
    gap = "\n" if text else ""
    rest = "".join(entry(name, table, version) for name, table in sorted(kept.items()))
    made = f"{text}{gap}{BEGIN}\n{head}{handler.entry(version)}{rest}{END}\n"
    try:
        tomllib.loads(made)
    except tomllib.TOMLDecodeError as error:
        raise Refused(
            f"no table can be added to containerd's configuration ({error}): write its inline "
            "tables of plugins as [tables]"
        ) from None
    return made


def drop_in(handler: Handler, version: int) -> str:
    """The text of conf.d/pyrunc.toml."""
    return f"{BEGIN}\nversion = {version}\n{handler.entry(version)}{END}\n"


def forgotten(table: dict[str, Any], version: int, dump: dict[str, Any] | None) -> dict[str, Any]:
    """The handlers that a file without them has by default, and loses when it names another one.

    `dump` is what containerd makes of the file, None where there is no containerd to ask.
    """
    if version > 2 or (dump is not None and dump.get("version") != 2):
        return {}
    found = DEFAULT if dump is None else runtimes(dump)
    return {name: value for name, value in found.items() if name not in runtimes(table)}


def takes_drop_in(table: dict[str, Any], version: int, config: PurePath, path: PurePath) -> bool:
    """Does the file `config` import `path`, and is its containerd one that merges tables?"""
    if version < 3:
        return False
    patterns = [str(config.parent / pattern) for pattern in table.get("imports") or []]
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)
