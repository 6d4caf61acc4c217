"""linux.trust: whose work a file may be. Real files and modes."""

from __future__ import annotations

import os

import pytest

from shim_runc_py.linux import trust


@pytest.fixture
def engine(directory):
    """A file two directories below one that is ours alone."""
    directory.chmod(0o700)
    (directory / "bin").mkdir(mode=0o755)
    path = directory / "bin" / "engine"
    path.write_text("x")
    path.chmod(0o755)
    return path


def test_a_file_of_ours_is_trusted_also_below_a_sticky_directory(engine):
    assert trust.doubt(str(engine)) == ""


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_what_others_may_write_is_doubted(engine, mode):
    engine.chmod(mode)
    assert trust.doubt(str(engine)) == f"{engine} can be changed by others"
    engine.chmod(0o755)
    engine.parent.chmod(mode)
    assert trust.doubt(str(engine)) == f"{engine.parent} can be changed by others"


def test_a_link_is_as_good_as_the_way_to_it_and_from_it(engine, directory):
    link = directory / "link"
    link.symlink_to(engine)
    assert trust.doubt(str(link)) == ""
    engine.parent.chmod(0o777)
    assert trust.doubt(str(link)) == f"{engine.parent} can be changed by others"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_what_belongs_to_somebody_else_is_doubted(engine):
    os.chown(engine, 1234, 0)
    assert trust.doubt(str(engine)) == f"{engine} belongs to user 1234"


def test_what_is_not_there_or_not_absolute_is_doubted(engine):
    assert trust.doubt(f"{engine}x") == f"{engine}x: no such file or directory"
    assert trust.doubt("engine") == "engine is no absolute path"
