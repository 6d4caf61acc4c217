"""The RuntimeClass tells the scheduler what a pod's shim costs: no less than it does."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.processes import zygotes
from shim_runc_py.testing import generations
from tests.cri.node import SLEEP, container

MANIFEST = Path(__file__).parents[2] / "packaging/kubernetes/install/runtimeclass.yaml"
PODS = 10


@pytest.mark.slow
def test_the_overhead_of_a_pod_is_what_its_shim_and_its_share_of_the_zygote_cost(node):
    if node.daemon.generation.suite != generations.SUITES[-1]:
        pytest.skip("measured with the newest containerd only: the shim is the same")
    others = set(zygotes())
    (mebibytes,) = re.findall(r"^    memory: (\d+)Mi$", MANIFEST.read_text(), re.MULTILINE)
    with contextlib.ExitStack() as stack:
        for _ in range(PODS):
            two = (container("a", SLEEP), container("b", SLEEP))
            stack.enter_context(node.running(node.spec("pyrunc", *two)))
        pids = [int(line.split(":")[0]) for line in node.shims() if "zygote" not in line]
        assert len(pids) == PODS
        shims = memory.settled(pids)
        shared = [memory.read(pid) for pid in zygotes() if pid not in others] or [
            memory.read(max(others))
        ]
        borrowed = memory.borrowed(pids)
    each = (sum(one.pss for one in shims) + sum(one.pss for one in shared) + borrowed) / PODS
    told = int(mebibytes) * 1024
    print(f"{each:.0f} KiB for each of {PODS} pods, {told} KiB in the RuntimeClass")
    assert told / 2 < each <= told
