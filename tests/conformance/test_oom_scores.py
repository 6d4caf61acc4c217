"""Who is to be killed first: scores of the shim and of the container (SEMANTICS 11, FAILURES 63).

To lower a score takes CAP_SYS_RESOURCE, which root lacks in many a container; tests/vm has it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shim_runc_py.testing import conditions

pytestmark = pytest.mark.cgroup
OWN = Path("/proc/self/oom_score_adj")


@pytest.fixture
def own_score():
    """`own_score(number)` is that of the tests, and so the score of what starts the shims."""
    before = OWN.read_text()
    try:
        OWN.write_text("-1000")
    except PermissionError:
        pytest.skip("to lower an oom score takes CAP_SYS_RESOURCE")
    OWN.write_text(before)
    yield lambda number: OWN.write_text(str(number))
    OWN.write_text(before)


def score(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize(("ours", "shims"), [(-999, -998), (-1000, -999), (500, 501), (1000, 1000)])
def test_the_shim_goes_just_before_containerd(own_score, make_bundle, start_shim, ours, shims):
    own_score(ours)
    shim = start_shim(make_bundle("sleep"))
    assert score(shim.pid) == shims


@pytest.mark.parametrize("wanted", [-998, -1, 0, 1000])
def test_the_container_has_the_score_of_its_spec(own_score, make_bundle, start_shim, wanted):
    """-998 is what kubelet gives to a guaranteed pod."""
    runc = conditions.ENGINE == "runc"
    if not (wanted or runc):
        pytest.skip("crun takes a score of 0 for none")
    bundle = make_bundle("sleep")
    bundle.config["process"]["oomScoreAdj"] = wanted
    bundle.save()
    own_score(-100)
    shim = start_shim(bundle)
    pid = shim.task.create(bundle).pid
    shim.task.start(bundle.id)
    assert score(pid) == wanted
    assert score(shim.pid) == -99
    if not runc:
        return  # crun gives an exec the score of whoever starts it
    shim.task.exec(bundle.id, "e1", {"args": ["/bin/sleep", "1000"], "oomScoreAdj": wanted})
    assert score(shim.task.start(bundle.id, "e1").pid) == wanted


def test_without_one_in_its_spec_the_container_has_that_of_the_shim(
    own_score, make_bundle, start_shim
):
    own_score(-100)
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    assert score(shim.task.create(bundle).pid) == -99
