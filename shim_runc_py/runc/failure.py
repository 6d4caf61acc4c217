"""An engine's failure in words: the engine's own, which pass through unchanged.

Pure. docker, nerdctl and the kubelet match on runc's sentences (`executable file not found in
$PATH`, CONTRACT 7.4), so nothing is reworded here. The stock shim takes the last error line of the
whole log file, which is append-only; a call that fails without logging anything then gets the
message of an older one (SEMANTICS 3.7). We take it from what this call appended.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def last_error(log_tail: str) -> str:
    """The message of the last record with level `error` in lines of JSON, or "".

    A line that is cut off or no JSON is passed over: a killed engine leaves half a line.
    """
    found = ""
    for line in log_tail.split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        record = {str(key).lower(): value for key, value in record.items()}
        if record.get("level") == "error" and isinstance(record.get("msg"), str):
            found = record["msg"].strip()
    return found


def command_error(argv0: str, status: int, output: str | None) -> str:
    """What an engine's exit says; `output` is None when it wrote to the container's streams."""
    text = f"{argv0} did not terminate successfully: exit status {status}"
    return text if output is None else f"{text}: {output}"


def not_started(argv0: str, words: str) -> str:
    """An engine that is there by name and could not be executed."""
    return f"fork/exec {argv0}: {words}"


def not_found(name: str) -> str:
    """An engine that is in no directory of PATH."""
    return f'exec: "{name}": executable file not found in $PATH'


def runtime_error(prefix: str, log_problem: str, log_message: str, command: str) -> str:
    """The text for a client: the log's message, else the command's error.

    `log_problem` says why the log could not be read ("" if it could).
    """
    if log_problem:
        return f"{prefix}: unable to retrieve OCI runtime error ({log_problem}): {command}"
    return f"{prefix}: {log_message or command}"


# Words of engines for "there is no such container", lower case. runc, then crun (SEMANTICS 6.2).
_MISSING = ("does not exist", "/status`: no such file or directory", "cannot open directory '")
_FINISHED = ("os: process already finished", "container not running")


def says_missing(text: str) -> bool:
    """Does an engine's error mean that it knows no such container?"""
    lower = text.lower()
    return any(words in lower for words in _MISSING)


def says_finished(text: str) -> bool:
    """Does an engine's error about a kill mean that the process is dead already?"""
    return any(words in text for words in _FINISHED) or "no such process" in text.lower()


def quote(argv: Sequence[str]) -> str:
    """A command line for the log, to be pasted into a shell."""
    return " ".join(f"'{word}'" if " " in word or not word else word for word in argv)
