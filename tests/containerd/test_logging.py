"""Logs.

Output of containers to files and to logging programs, and the shim's own log in containerd's.
"""

from __future__ import annotations

import os
import re
import signal

import pytest

from shim_runc_py.testing.daemon import wait_until
from tests.containerd import pairings
from tests.containerd.user import User

# The contract of a logging program: 3 and 4 are the container's output, closing 5 says "ready"; the
# stock shim sends it a SIGTERM at the end.
LOGGER = """#!/bin/sh
trap '' TERM
exec 5>&-
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $*" >{place}/who
cat <&3 >{place}/out &
cat <&4 >{place}/err &
wait
touch {place}/done
"""


@pytest.fixture
def logger(tmp_path):
    path = tmp_path / "logger"
    path.write_text(LOGGER.format(place=tmp_path))
    path.chmod(0o755)
    return path


@pytest.mark.control
def test_output_goes_to_a_file(user, tmp_path):
    path = tmp_path / "logs" / "c1.log"
    path.parent.mkdir()
    options = ["--rm", "--log-uri", f"file://{path}"]
    done = user.shell("c1", "echo out; echo err >&2; exit 7", options=options, check=False)
    assert (done.stdout, done.returncode) == ("", 7), done.stderr
    assert sorted(path.read_text().split()) == ["err", "out"]


@pytest.mark.control
def test_output_goes_to_a_logging_program(user, logger, tmp_path):
    options = ["--rm", "--log-uri", f"binary://{logger}?--tag=x"]
    done = user.shell("c1", "echo out; echo err >&2; exit 7", options=options, check=False)
    assert done.returncode == 7, done.stderr
    wait_until((tmp_path / "done").exists, "the logging program has ended", 20)
    assert (tmp_path / "out").read_text() == "out\n"
    assert (tmp_path / "err").read_text() == "err\n"
    assert (tmp_path / "who").read_text() == f"{pairings.NAMESPACE}/c1 --tag x\n"


def test_a_logging_program_that_is_missing_is_named(user, tmp_path):
    options = ["--rm", "--log-uri", f"binary://{tmp_path}/nosuch"]
    done = user.shell("c1", "echo out", options=options, check=False)
    assert done.returncode == 1
    assert f"{tmp_path}/nosuch" in done.stderr, done.stderr
    assert user.tasks() == {}


def test_the_output_of_an_exec_goes_to_a_file(user, tmp_path):
    user.detach("c1", "/bin/sleep", "1000")
    path = tmp_path / "e1.log"
    done = user.exec("c1", "e1", "echo out; exit 3", "--log-uri", f"file://{path}")
    assert done.returncode == 3, done.stderr
    assert path.read_text() == "out\n"
    user.remove("c1")


def test_output_goes_to_files_and_programs_while_containerd_is_down(owner, logger, tmp_path):
    script = "trap 'i=0; while [ $i -lt 10000 ]; do echo $i; i=$((i+1)); done; exit' TERM; "
    script += "echo ready; while :; do sleep 0.01; done"
    path = tmp_path / "c1.log"
    uris = {"c1": f"file://{path}", "c2": f"binary://{logger}"}
    outputs = {"c1": path, "c2": tmp_path / "out"}
    for id, uri in uris.items():
        owner.detach(id, "/bin/sh", "-c", script, options=["--log-uri", uri])
        wait_until(lambda id=id: outputs[id].read_text() == "ready\n", f"{id} is ready", 20)
    pids = {id: pid for id, (pid, _) in owner.tasks().items()}
    owner.daemon.stop(signal.SIGKILL)
    expected = "ready\n" + "".join(f"{number}\n" for number in range(10000))
    for id, pid in pids.items():
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda id=id: outputs[id].read_text() == expected, f"{id} has told all", 20)
    owner.daemon.start()
    for id in pids:
        if id in owner.tasks():  # 1.6; later ones have removed what has ended meanwhile
            owner.remove(id)
        else:
            owner.daemon.ctr("containers", "rm", id)


def test_a_debugging_containerd_has_the_debug_log_of_the_shim(user):
    before = len(user.daemon.log())
    assert user.shell("c1", "exit 3", check=False).returncode == 3
    log = user.daemon.log()[before:]
    verbs = re.findall(r'level=debug msg="engine" verb="(\w+)" container="c1" status="0"', log)
    assert verbs == ["create", "start", "delete"], log


def test_other_containerds_have_only_the_milestones(pairing, rootfs, nothing_is_left):
    daemon = pairings.daemon(pairing.generation, "quiet", debug=False)
    try:
        daemon.start()
        user = User(daemon, pairing, rootfs)
        assert user.shell("logged", "exit 3", check=False).returncode == 3
        log = daemon.log()
        assert 'level=info msg="shim ends" id="logged"' in log
        assert "level=debug" not in log
    finally:
        pairings.discard(daemon)
