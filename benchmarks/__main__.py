"""The runner: `python -m benchmarks` measures, `python -m benchmarks report` writes the page.

    python -m benchmarks [--quick] [--case NAME]... [--containerd SUITE]... [--native PATH]
                         [--python PATH] [--out DIR]
    python -m benchmarks report [--results FILE]

A full run of all cases writes latest.json, a quick one quick.json, one of some cases
partial.json. The runner moves into a mount namespace with a /run of its own first: sockets and
zygotes of this run meet nobody else's, and go with it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CASES = (
    "start", "delete", "lifecycle", "exec", "kill", "rpc", "stdio", "density", "parallel", "soak",
)  # fmt: skip
SUITES = ("bookworm", "forky")  # containerd 1.6.20 and 2.1.9
_ISOLATED = "PYRUNC_BENCH_ISOLATED"
_OWN_RUN = 'mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'


def main() -> int:
    options = parse(sys.argv[1:])
    if options.action == "report":
        from benchmarks import report

        return report.main(options.results)
    if os.geteuid() != 0:
        print("benchmarks: containers need root; try sudo", file=sys.stderr)
        return 1
    if not os.environ.get(_ISOLATED):
        os.environ[_ISOLATED] = "1"
        os.environ.pop("PYRUNC_ZYGOTE", None)
        words = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "-m", "sh", "-c", _OWN_RUN, "benchmarks", *words])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken away
    return measure(options)


def parse(words: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", allow_abbrev=False)
    parser.add_argument("action", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("--quick", action="store_true", help="fewer of everything: < 5 minutes")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one")
    parser.add_argument("--containerd", action="append", metavar="SUITE", help="bookworm, forky")
    parser.add_argument("--native", type=Path, help="a native launcher (default: made here)")
    parser.add_argument("--python", type=Path, help="a Python launcher (default: made here)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--results", type=Path, default=RESULTS / "latest.json")
    return parser.parse_args(words)


def measure(options: Any) -> int:
    from rich.console import Console

    from benchmarks import machine
    from benchmarks.processes import end_zygotes
    from benchmarks.results import Run, to_json
    from shim_runc_py.testing import bundles, generations, leaks

    console = Console()
    began = time.monotonic()
    found = [generations.get(suite) for suite in options.containerd or SUITES]
    run = Run(
        mode="quick" if options.quick else "full",
        started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        machine=machine.machine(),
        versions=machine.versions(found),
    )
    cases = options.case or CASES
    place = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    before = leaks.Before(str(place))
    try:
        bundles.make_rootfs(place / "rootfs")
        launchers = {
            "python": options.python or installed(place / "python", native=False),
            "native": options.native or installed(place / "native", native=True),
        }
        for generation in found:
            for name, path in launchers.items():
                play(console, run, place, generation, name, path, cases, options.quick)
    finally:
        end_zygotes()
        left = before.left()
        leaks.remove_cgroup_parents()
        shutil.rmtree(place, ignore_errors=True)
    run.seconds = round(time.monotonic() - began, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    kind = "quick" if options.quick else "latest"
    path = options.out / f"{'partial' if options.case or options.containerd else kind}.json"
    path.write_text(to_json(run))
    console.print(f"{path}: {len(run.figures)} figures in {run.seconds:.0f} s")
    if left:
        console.print("left behind:", *left, sep="\n  ", style="red", markup=False)
    return 1 if left or any(missing.failed for missing in run.missing) else 0


def installed(prefix: Path, *, native: bool) -> Path | None:
    """Our shim as an operator installs it; None when there is no native launcher."""
    from shim_runc_py.tools import install
    from shim_runc_py.tools.native import LAUNCHER

    if native and install.compiled(LAUNCHER) is None:
        return None
    install.install(prefix, native_launcher=native)
    return prefix / "bin" / install.NAME


def play(
    console: Any,
    run: Any,
    place: Path,
    generation: Any,
    launcher: str,
    binary: Path | None,
    cases: Sequence[str],
    quick: bool,
) -> None:
    """All cases for one containerd and one launcher; what goes wrong is recorded and told."""
    from benchmarks.stage import NotHere, Stage

    title = f"containerd {generation.version}, {launcher} launcher"
    with console.status(title) as status:

        def say(text: str) -> None:
            status.update(f"{title}: {text}")

        stage = Stage(place, run, generation, launcher, str(binary), quick=quick, say=say)
        try:
            for name in cases:
                case = importlib.import_module(f"benchmarks.cases.{name}")
                if launcher != "python" and not case.EVERY_LAUNCHER:
                    continue
                stage.case = name
                if binary is None or not binary.exists():
                    stage.missing(f"no {launcher} launcher: there is no C compiler")
                    console.print(f"{name}, {title}: missing")
                    continue
                say(name)
                known = (len(run.figures), len(run.curves), len(run.missing))
                began = time.monotonic()
                try:
                    case.run(stage)
                except NotHere as reason:
                    stage.missing(str(reason))
                except Exception as error:  # the other cases are worth having
                    console.print_exception()
                    stage.missing(f"{type(error).__name__}: {error}", failed=True)
                took = time.monotonic() - began
                console.print(f"[bold]{name}[/], {title} ({took:.0f} s)")
                tell(console, run, known)
        finally:
            stage.close()


def tell(console: Any, run: Any, known: tuple[int, int, int]) -> None:
    """What a case has found."""
    from benchmarks.report import describe

    for item in [*run.figures[known[0] :], *run.curves[known[1] :], *run.missing[known[2] :]]:
        for line in describe(item):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
