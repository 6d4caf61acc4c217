"""A fake engine: the real one behind a script that misbehaves where it is told to."""

from __future__ import annotations

import shutil
from pathlib import Path

from shim_runc_py.testing import conditions

_SCRIPT = """#!/bin/sh
# Stands in for an OCI engine; `$here/<verb>` is sourced before the real one runs.
here={here}
verb=
for word in "$@"; do
    case "$word" in
    create|start|exec|kill|delete|pause|resume|ps|update|checkpoint|restore|features|state)
        verb=$word
        break ;;
    esac
done
echo "$*" >>"$here/calls"
if [ -n "$verb" ] && [ -f "$here/$verb" ]; then . "$here/$verb"; fi
exec {real} "$@"
"""


class FakeEngine:
    """`path` is its binary; `on` says in shell words what a verb does first."""

    def __init__(self, directory: Path, real: str = conditions.ENGINE) -> None:
        found = shutil.which(real)
        if found is None:
            raise FileNotFoundError(f"{real}: not installed")
        directory.mkdir(parents=True)
        self._directory = directory
        self.path = directory / "fake-runc"
        self.path.write_text(_SCRIPT.format(here=directory, real=found))
        self.path.chmod(0o755)

    def on(self, verb: str, script: str) -> None:
        """`sleep 100` hangs, `exit 3` fails, `kill -STOP $$` stops, `exec true` lies."""
        (self._directory / verb).write_text(script + "\n")

    def behave(self, verb: str) -> None:
        """Undo `on`."""
        (self._directory / verb).unlink(missing_ok=True)

    def calls(self) -> list[str]:
        """The command lines so far, without the binary."""
        path = self._directory / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def verbs(self) -> list[str]:
        """The sub-commands so far: the word after the global options."""
        found = []
        for line in self.calls():
            words = line.split()
            while words and words[0].startswith("--"):
                takes_value = words[0] in ("--root", "--log", "--log-format")
                words = words[2 if takes_value else 1 :]
            found.append(words[0] if words else "")
        return found
