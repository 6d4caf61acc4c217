"""`make test-vm`: the tests marked `cgroup`, once for each engine and cgroup driver.

Each configuration is one boot and one pytest. The results go into docs/cgroup-v2.md; the exit
status is 1 when a test has failed or a machine has not come to its end. Arguments choose among the
configurations (`crun-systemd`); the file then says of the others what they gave when they last ran,
and is not written while one of them has never run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from shim_runc_py.testing import generations
from tests.vm import kernel, machine

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "docs" / "cgroup-v2.md"
SECONDS = 1800  # for one configuration
SLOW_UNDER_EMULATION = 4  # ten times slower, but no bound is so near
CRUN_PACKAGES = ("crun", "libyajl2")


@dataclass
class Configuration:
    """An engine and who makes its cgroups."""

    engine: str
    driver: str  # cgroupfs or systemd
    suites: tuple[str, ...] = generations.SUITES[-1:]  # whose stock shims are tested beside ours

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.driver}"


CONFIGURATIONS = [
    Configuration("runc", "cgroupfs"),
    Configuration("crun", "cgroupfs"),
    Configuration("runc", "systemd"),
    Configuration("crun", "systemd"),
]


@dataclass
class Result:
    """What one configuration gave: `outcomes` by test function."""

    configuration: Configuration
    version: str
    date: str
    failure: str = ""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def total(self) -> Counter[str]:
        return sum(self.outcomes.values(), Counter())

    @property
    def good(self) -> bool:
        return not self.failure and bool(self.total["passed"]) and not self.total["failed"]


def crun() -> str:
    """The engine of the distribution: unpacked, with what it needs, behind a script."""
    cache = generations.cache_directory()
    root = cache / "crun"
    script = root / "crun"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        generations.fetch(generations.SUITES[0], CRUN_PACKAGES, root)
        libraries = ":".join(sorted({str(path.parent) for path in root.rglob("*.so.*")}))
        lines = ["#!/bin/sh", f"export LD_LIBRARY_PATH={libraries}"]
        script.write_text("\n".join([*lines, f'exec {root}/usr/bin/crun "$@"', ""]))
        script.chmod(0o755)
    return str(script)


def version(engine: str) -> str:
    """Its first words about itself: `runc version 1.1.5`."""
    done = subprocess.run([engine, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def run(configuration: Configuration) -> Result:
    """Boot, run the tests, read what they say. Raises Unavailable."""
    engine = binary(configuration)
    for suite in configuration.suites:
        generations.get(suite)  # there is no network in the machine
    systemd = configuration.driver == "systemd"
    slow = 2 if machine.kvm_usable() else SLOW_UNDER_EMULATION
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYRUNC_CACHE": str(generations.cache_directory()),
        "PYRUNC_ENGINE": engine,
        "PYRUNC_SUITES": " ".join(configuration.suites),
        "PYRUNC_SYSTEMD": "yes" if systemd else "",
        "PYRUNC_SLOW": str(slow),
    }
    with tempfile.TemporaryDirectory(prefix="pyrunc-vm-") as scratch:
        report = Path(scratch, "report.xml")
        words = [sys.executable, "-m", "pytest", "-m", "cgroup", f"--junitxml={report}"]
        words += ["-q", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={180 * slow}"]
        outcome = machine.run(
            machine.Job(
                words,
                environ,
                cwd=str(ROOT),
                shares=[Path(scratch)],
                systemd=systemd,
                seconds=SECONDS,
            )
        )
        if outcome.status in (0, 1):
            kept = kept_report(configuration)
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(report, kept)
            return result(configuration)
    kept_report(configuration).unlink(missing_ok=True)
    if outcome.status is None:
        sys.stderr.write(outcome.console.decode(errors="replace")[-3000:])
    failure = outcome.failure or f"pytest ended with status {outcome.status}"
    return Result(configuration, version(engine), time.strftime("%Y-%m-%d"), failure)


def kept_report(configuration: Configuration) -> Path:
    """Where the last run of a configuration has left what pytest said."""
    return machine.cache_directory() / "results" / f"{configuration.name}.xml"


def result(configuration: Configuration) -> Result:
    """Of the last run. Raises FileNotFoundError when there was none."""
    kept = kept_report(configuration)
    outcomes = read(kept)
    date = time.strftime("%Y-%m-%d", time.localtime(kept.stat().st_mtime))
    return Result(configuration, version(binary(configuration)), date, "", outcomes)


def binary(configuration: Configuration) -> str:
    """The engine to be run. Raises Unavailable."""
    return crun() if configuration.engine == "crun" else configuration.engine


def read(report: Path) -> dict[str, Counter[str]]:
    """Outcomes of each test function, its parameters taken together."""
    found: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        function = case.get("name", "").partition("[")[0]
        name = f"{case.get('classname', '').rpartition('.')[2]}::{function}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif skipped is None:
            outcome = "passed"
        elif skipped.get("type") == "pytest.xfail":
            outcome = "expected failure"
        else:
            outcome = "skipped"
        found.setdefault(name, Counter())[outcome] += 1
    return found


def version_of_containerd(suite: str) -> str:
    """For instance 2.1.9, or why it cannot be had."""
    try:
        return generations.get(suite).version
    except generations.Unavailable as error:
        return f"none of {suite} ({error})"


def in_words(counts: Counter[str]) -> str:
    """`3 passed, 1 skipped`."""
    order = ("failed", "passed", "expected failure", "skipped")
    return ", ".join(f"{counts[name]} {name}" for name in order if counts[name]) or "not run"


def write(results: list[Result], linux: str) -> str:
    """The report as Markdown."""
    versions = {suite: version_of_containerd(suite) for suite in generations.SUITES}
    lines = [
        "# On cgroup v2",
        "",
        "Written by `make test-vm`; not to be edited. It boots a virtual machine with the kernel",
        f"{linux}, a unified cgroup v2 and PSI, once for each",
        "configuration, and runs the tests marked `cgroup` in it (Stats, OOM, Update, Pause, Kill)",
        "with this shim and with stock shims. A test of both counts once for each shim.",
        "",
        "| engine | cgroup driver | stock shims of containerd | date | result |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        lines.append(
            f"| {result.version} | {result.configuration.driver} | "
            f"{', '.join(versions[suite] for suite in result.configuration.suites)} | "
            f"{result.date} | {result.failure or in_words(result.total)} |"
        )
    names = [result.configuration.name for result in results]
    lines += ["", f"| test | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name in sorted({name for result in results for name in result.outcomes}):
        cells = [in_words(result.outcomes.get(name, Counter())) for result in results]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(chosen: list[str]) -> int:
    # A polite end still ends QEMU.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = []
    for configuration in CONFIGURATIONS:
        try:
            if not chosen or configuration.name in chosen:
                print(f"== {configuration.name}", flush=True)
                results.append(run(configuration))
            else:
                results.append(result(configuration))
        except (kernel.Unavailable, generations.Unavailable) as error:
            print(f"test-vm: {error}", file=sys.stderr)
            return 1
        except FileNotFoundError:
            continue
    for found in results:
        print(f"{found.configuration.name}: {found.failure or in_words(found.total)}")
    if len(results) == len(CONFIGURATIONS):
        linux = next(machine.cache_directory().glob("linux-image-*")).name
        REPORT.write_text(write(results, linux.removeprefix("linux-image-")))
    return 0 if results and all(found.good for found in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
