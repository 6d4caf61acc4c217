"""The shim's log: one line per record, to whatever file descriptor 2 is.

In a serving shim that is the bundle's `log` FIFO, which containerd copies into its own log
(CONTRACT 3.1). The form is the one people know from the stock shim:

    time="2024-05-01T10:00:00.000000000Z" level=info msg="..." key="value"

Rules
-----
* A record never blocks and never raises: while containerd is down nobody reads the FIFO, and a
  shim that waits for a reader of its log stops serving (CONTRACT 3.1). What cannot be written
  at once is dropped and counted; the next record that gets through says how many were lost.
* Values are quoted, control characters are escaped and long values are cut: ids and arguments
  come from outside (SECURITY 34). Specs and environments are never logged (SECURITY 35).
* The `logging` package is outside the import budget.
"""

import os
import time

DEBUG, INFO, WARNING, ERROR = 0, 1, 2, 3
_NAMES = ("debug", "info", "warning", "error")
_LONGEST = 4096

threshold = INFO
_lost = 0


def debug(message: str, **fields: object) -> None:
    """For whoever runs containerd with `level = "debug"`."""
    _write(DEBUG, message, fields)


def info(message: str, **fields: object) -> None:
    """Rare milestones of a shim's life."""
    _write(INFO, message, fields)


def warning(message: str, **fields: object) -> None:
    """Something was lost or had to be worked around; the shim goes on."""
    _write(WARNING, message, fields)


def error(message: str, **fields: object) -> None:
    """Something that a caller will not hear of went wrong."""
    _write(ERROR, message, fields)


def _write(level: int, message: str, fields: dict[str, object]) -> None:
    global _lost
    if level < threshold:
        return
    line = format_record(level, message, fields, time.time_ns(), _lost)
    try:
        os.write(2, line.encode("utf-8", "replace"))
    except OSError:  # no reader, no room, no descriptor: see the rules
        _lost += 1
    else:
        _lost = 0


def format_record(
    level: int, message: str, fields: dict[str, object], now: int, lost: int = 0
) -> str:
    """One line for the log. `now` in nanoseconds since 1970; `lost` records before this one."""
    seconds, nanoseconds = divmod(now, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    parts = [f'time="{stamp}.{nanoseconds:09d}Z" level={_NAMES[level]} msg={_quote(message)}']
    parts += [f"{key}={_quote(str(value))}" for key, value in fields.items()]
    if lost:
        parts.append(f'lost="{lost}"')
    return " ".join(parts) + "\n"


def _quote(text: str) -> str:
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\t":
            out.append("\\t")
        elif char.isprintable():
            out.append(char)
        else:
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'
