"""file:// and binary:// (SEMANTICS 4.2, 4.7; FAILURES 6)."""

from __future__ import annotations

import os
import stat

import pytest

from shim_runc_py.testing.daemon import wait_until
from shim_runc_py.testing.shims import refused

LOGGER = """#!/bin/sh
# Writes what it gets into files beside itself.
here={here}
env >$here/env
echo "$@" >$here/args
ls -l /proc/$$/fd >$here/fds
trap 'echo TERM >>$here/end' TERM
cat <&3 >$here/out 5>&- &
cat <&4 >$here/err 5>&- &
{ready}
exec 5>&-
wait
echo EOF >>$here/end
"""


@pytest.fixture
def make_logger(place):
    """`make_logger(ready)`: a logging program; `ready` is shell."""

    def make(ready=":", text=LOGGER):
        here = place / "logger"
        here.mkdir(exist_ok=True)
        path = here / "log.sh"
        path.write_text(text.format(here=here, ready=ready))
        path.chmod(0o755)
        return path

    return make


def read(path):
    return path.read_text() if path.exists() else ""


@pytest.mark.stock(varies="may lose what came last on one of the streams")
def test_a_file_gets_both_streams_and_is_made(make_bundle, start_shim, place):
    target = place / "deep" / "er" / "log"
    bundle = make_bundle("both-streams")
    shim = start_shim(bundle)
    uri = f"file://{target}"
    for _ in range(2):
        shim.task.create(bundle, stdout=uri, stderr=uri)
        shim.task.start(bundle.id)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)
    assert sorted(target.read_text().split()) == ["to-stderr"] * 2 + ["to-stdout"] * 2
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o755


@pytest.mark.stock(skip="follows symlinks, and opens what is no file")
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_a_log_file_that_is_something_else_is_refused(make_bundle, start_shim, place, kind):
    target = place / "log"
    if kind == "symlink":
        target.symlink_to(place / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    bundle = make_bundle("both-streams")
    shim = start_shim(bundle)
    with refused(2, "failed to create init process I/O: "):
        shim.task.create(bundle, stdout=f"file://{target}", stderr=f"file://{target}")
    assert not (place / "elsewhere").exists()


@pytest.mark.stock(skip="stops reading, and the container hangs in its next write")
def test_a_full_disk_does_not_stop_the_container(make_bundle, start_shim, place):
    from shim_runc_py.linux import libc

    disk = place / "disk"
    disk.mkdir()
    libc.mount("tmpfs", str(disk), "tmpfs", 0, "size=65536")
    try:
        bundle = make_bundle("flood")
        shim = start_shim(bundle)
        uri = f"file://{disk}/log"
        shim.task.create(bundle, stdout=uri, stderr=uri)
        shim.task.start(bundle.id)
        assert shim.task.wait(bundle.id, timeout=20).exit_status == 0
        shim.task.delete(bundle.id)
        assert "output is dropped from now on" in shim.log()
        shim.close()
    finally:
        libc.umount2(str(disk), 0)


def test_a_logger_gets_the_streams_and_what_it_is_told(make_bundle, start_shim, make_logger, place):
    logger = make_logger()
    bundle = make_bundle("both-streams")
    shim = start_shim(bundle)
    uri = f"binary://{logger}?k1=v1"
    shim.task.create(bundle, stdout=uri, stderr=uri)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    here = logger.parent
    wait_until(lambda: read(here / "out") and read(here / "err"), "the output is there")
    assert not read(here / "end")  # its input ends at Delete and not before
    shim.task.delete(bundle.id)
    assert (read(here / "out"), read(here / "err")) == ("to-stdout\n", "to-stderr\n")
    assert "TERM" in read(here / "end") or "EOF" in read(here / "end")
    assert read(here / "args") == "k1 v1\n"
    environ = dict(line.split("=", 1) for line in read(here / "env").splitlines())
    names = {"CONTAINER_ID": bundle.id, "CONTAINER_NAMESPACE": "test"}
    assert {name: environ.get(name) for name in names} == names
    assert set(environ) <= {*names, "PWD", "SHLVL", "_", "OLDPWD"}
    numbers = {line.split()[8] for line in read(here / "fds").splitlines()[1:]}
    assert {number for number in numbers if int(number) < 10} == {"0", "1", "2", "3", "4", "5"}


@pytest.mark.stock(skip="has them in the random order of a Go map")
def test_the_arguments_of_a_logger_keep_their_order(make_bundle, start_shim, make_logger):
    logger = make_logger()
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    uri = f"binary://{logger}?b=2&a=x%20y+z&flag&b=3"
    shim.task.create(bundle, stdout=uri, stderr=uri)
    assert read(logger.parent / "args") == "b 2 a x y z flag \n"


@pytest.mark.stock(skip="waits for ever")
def test_a_logger_that_never_says_that_it_is_ready_fails_create(
    make_bundle, start_shim, make_logger
):
    logger = make_logger("sleep 1000")
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    with refused(4, "did not call ready: context deadline exceeded"):
        shim.task.call(
            "Create",
            timeout=1,
            id=bundle.id,
            bundle=str(bundle),
            stdout=f"binary://{logger}",
            stderr=f"binary://{logger}",
        )


def test_a_logger_that_is_missing_is_named(make_bundle, start_shim, place):
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    uri = f"binary://{place}/nobody"
    with refused(
        2, f"failed to start binary process: fork/exec {place}/nobody: no such file or directory"
    ):
        shim.task.create(bundle, stdout=uri, stderr=uri)


@pytest.mark.stock(skip="knows no binary-v2", before=(2, 3))
def test_binary_v2_wants_a_byte(make_bundle, start_shim, make_logger):
    bundle = make_bundle("hello")
    shim = start_shim(bundle)
    uri = f"binary-v2://{make_logger()}"
    with refused(2, "logging binary did not call ready"):
        shim.task.create(bundle, stdout=uri, stderr=uri)
    uri = f"binary-v2://{make_logger('echo >&5')}"
    shim.task.create(bundle, stdout=uri, stderr=uri)


@pytest.mark.stock(skip="the container is killed by SIGPIPE")
def test_a_logger_that_dies_takes_nothing_with_it(make_bundle, start_shim, make_logger):
    logger = make_logger(text="#!/bin/sh\nexec 5>&-\nhead -c 1000 <&3 >/dev/null\n")
    bundle = make_bundle("flood")
    shim = start_shim(bundle)
    uri = f"binary://{logger}"
    shim.task.create(bundle, stdout=uri, stderr=uri)
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id, timeout=20).exit_status == 0
    assert "logger has ended" in shim.log()
    shim.task.delete(bundle.id)


@pytest.mark.stock(skip="sends SIGTERM while there is something left to read")
def test_a_logger_gets_everything(make_bundle, start_shim, make_logger, place):
    text = "#!/bin/sh\nexec 5>&-\nsleep 0.3\nexec cat <&3 >{here}/out\n"
    logger = make_logger(text=text)
    bundle = make_bundle("hello", ["/bin/sh", "-c", "yes 0123456789abcde | head -c 60000"])
    shim = start_shim(bundle)
    uri = f"binary://{logger}"
    shim.task.create(bundle, stdout=uri, stderr=uri)
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    shim.task.delete(bundle.id)
    assert len(read(logger.parent / "out")) == 60000


def test_an_exec_may_have_a_logger(make_bundle, start_shim, make_logger):
    logger = make_logger()
    bundle = make_bundle("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle)
    shim.task.start(bundle.id)
    uri = f"binary://{logger}"
    process = {"args": ["/bin/echo", "from the exec"]}
    shim.task.exec(bundle.id, "e1", process, stdout=uri, stderr=uri)
    shim.task.start(bundle.id, "e1")
    shim.task.wait(bundle.id, "e1")
    wait_until(lambda: read(logger.parent / "out"), "the output is there")
    shim.task.delete(bundle.id, "e1")
    assert read(logger.parent / "out") == "from the exec\n"
    assert "CONTAINER_ID=e1\n" in read(logger.parent / "env")


def test_a_terminal_may_have_a_logger(make_bundle, start_shim, make_logger):
    logger = make_logger()
    bundle = make_bundle("tty", ["/bin/sh", "-c", "test -t 1 && echo on-a-tty"])
    shim = start_shim(bundle)
    shim.task.create(bundle, terminal=True, stdout=f"binary://{logger}")
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    wait_until(lambda: read(logger.parent / "out"), "the output is there")
    assert read(logger.parent / "out") == "on-a-tty\n"
    shim.task.delete(bundle.id)


@pytest.mark.stock(skip="runs any program that a request names")
def test_an_operator_may_name_the_only_loggers(make_bundle, start_shim, make_logger):
    logger = make_logger()
    bundle = make_bundle("hello")
    shim = start_shim(bundle, environ={"PYRUNC_LOGGERS": "/usr/bin/one:/usr/bin/two"})
    uri = f"binary://{logger}"
    with refused(3, "is none of the loggers in PYRUNC_LOGGERS"):
        shim.task.create(bundle, stdout=uri, stderr=uri)
    assert not (logger.parent / "args").exists()
