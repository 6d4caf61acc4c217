"""`python -m tests.vm [options] -- COMMAND...`: one command in the machine.

The exit status is the command's; 124 when the time was over, 125 when the machine failed. The
current directory is the guest's, too, and may be written to there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.vm import machine
from tests.vm.kernel import Unavailable

PASSED = ("PATH", "HOME", "LANG", "TERM", "PYTHONPATH", "PYRUNC_CACHE", "PYRUNC_ENGINE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.vm", description=__doc__)
    parser.add_argument("--systemd", action="store_true", help="boot systemd")
    parser.add_argument("--memory", type=int, default=2048, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="for everything")
    parser.add_argument("--accelerator", choices=("kvm", "tcg"), default="")
    parser.add_argument("--console", action="store_true", help="show the kernel's console")
    parser.add_argument("--share", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("words", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    environ = {name: os.environ[name] for name in PASSED if name in os.environ}
    environ |= dict(item.split("=", 1) for item in options.env)
    cwd = os.path.realpath(os.getcwd())
    shares = [path.resolve() for path in (Path(cwd), *options.share)]
    job = machine.Job(
        options.words,
        environ,
        cwd=cwd,
        shares=shares,
        systemd=options.systemd,
        memory=options.memory,
        cpus=options.cpus,
        seconds=options.seconds,
        accelerator=options.accelerator,
        console=options.console,
    )
    # A polite end still ends QEMU.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        outcome = machine.run(job)
    except Unavailable as error:
        print(f"vm: {error}", file=sys.stderr)
        return 125
    if outcome.status is not None:
        return outcome.status
    text = outcome.console.decode(errors="replace").splitlines()[-30:]
    print(f"vm: {outcome.failure}; last lines of the console:", *text, sep="\n", file=sys.stderr)
    return 124 if outcome.ready is not None else 125


if __name__ == "__main__":
    sys.exit(main())
