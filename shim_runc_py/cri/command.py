"""Commands in containers, as probes and lifecycle hooks run them: the kubelet's command runner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shim_runc_py.cri.services import RuntimeService


@dataclass(frozen=True)
class Outcome:
    """What a command wrote, stdout before stderr, and how it ended."""

    output: bytes
    exit_code: int


class CommandRunner:
    """Runs commands in containers of one daemon."""

    def __init__(self, runtime: RuntimeService) -> None:
        self._runtime = runtime

    def run_in_container(
        self, container: str, command: Sequence[str], timeout: float = 0.0
    ) -> Outcome:
        """Run a command and wait for it; `timeout` in seconds, rounded up, 0 is for ever.

        Raises TimedOut when it took longer (the daemon has killed it then), CRIError otherwise.
        """
        reply = self._runtime.exec_sync(container, command, math.ceil(timeout))
        return Outcome(reply.stdout + reply.stderr, reply.exit_code)
