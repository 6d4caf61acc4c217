"""The report of `pyrunc verify`: steps, timings, and what to do about a failure.

It knows words that containerd uses in errors, not how a pod is run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shim_runc_py.cri.failures import CRIError


class VerifyError(Exception):
    """A step failed: why, in a sentence, and what to do about it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass
class Step:
    """One step of the report."""

    name: str
    ok: bool = False
    milliseconds: float = 0.0
    detail: str = ""


@dataclass
class Report:
    """What happened so far; `say` prints each step when it is over."""

    endpoint: str
    handler: str
    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)
    reason: str = ""
    hint: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step. The first failure is the report's reason."""
        made = Step(name)
        began = time.monotonic()
        try:
            yield made
            made.ok = True
        except (VerifyError, CRIError, OSError) as error:
            made.detail = " ".join(str(error).split())
            if not self.reason:
                self.reason = f"{name}: {made.detail}"
                self.hint = error.hint if isinstance(error, VerifyError) else hint_for(str(error))
            raise
        finally:
            made.milliseconds = (time.monotonic() - began) * 1000
            self.steps.append(made)
            word = "ok  " if made.ok else "FAIL"
            self.say(f"{word} {name:8} {made.milliseconds:8.1f} ms  {made.detail}")

    @property
    def ok(self) -> bool:
        return not self.reason and all(step.ok for step in self.steps)

    def as_json(self) -> str:
        told: dict[str, Any] = {
            "ok": self.ok,
            "endpoint": self.endpoint,
            "handler": self.handler,
            "steps": [
                {**vars(step), "milliseconds": round(step.milliseconds, 1)} for step in self.steps
            ],
        }
        if self.reason:
            told |= {"reason": self.reason, "hint": self.hint}
        return json.dumps(told, indent=2)


def for_handler(handler: str) -> str:
    return (
        f"add runtimes.{handler} to the CRI plugin's table in containerd's config.toml "
        f'with runtime_type = "io.containerd.pyrunc.v2", and restart containerd'
    )


_HINTS = (
    ("serves neither CRI", "containerd's CRI plugin is off: see disabled_plugins in config.toml"),
    (
        "nobody speaks gRPC",
        "containerd's gRPC socket is wanted: not its ttrpc or debug socket, nor another daemon's",
    ),
    (
        "binary not installed",
        "put containerd-shim-pyrunc-v2 into containerd's own PATH, such as /usr/local/bin",
    ),
    ("not initialized yet", "containerd is still starting; try again in a moment"),
    ("no runtime for", "add the handler to containerd's config.toml and restart containerd"),
    ("sandbox image", "pull or import the pause image that containerd's config.toml names"),
    ("cni", "look at the pod network: /etc/cni/net.d and the plugins in /opt/cni/bin"),
    (
        "executable file not found",
        "the OCI engine is not in containerd's PATH; see BinaryName in the handler's options",
    ),
    (
        "/proc/self/oom_score_adj",
        "this node may not lower oom scores: set restrict_oom_score_adj = true for the CRI plugin",
    ),
)


def hint_for(text: str) -> str:
    """What to do about an error of containerd's, by its words; may be empty."""
    return next((hint for words, hint in _HINTS if words in text), "")
