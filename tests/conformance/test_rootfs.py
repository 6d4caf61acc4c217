"""Create with rootfs mounts: what is mounted, and that it goes (SEMANTICS 3.4)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import Options
from shim_runc_py.api.types_pb2 import Mount
from shim_runc_py.linux import procfs
from shim_runc_py.testing.shims import refused

UNKNOWN, STOPPED = 2, 3


def ours_only(reason):
    return pytest.mark.stock(skip=reason)


@pytest.fixture
def mountable(make_bundle):
    """`mountable(...)`: a bundle whose rootfs is the directory in it, to be mounted on."""

    def make(fixture="sleep", args=None):
        bundle = make_bundle(fixture, args)
        bundle.config["root"]["path"] = "rootfs"
        bundle.save()
        return bundle

    return make


def overlay(place, rootfs, *more):
    """A writable overlay of the busybox, as a snapshotter would give it."""
    for name in ("upper", "work"):
        (place / name).mkdir(exist_ok=True)
    lowers = ":".join(map(str, [*more, rootfs]))
    options = ["index=off", f"workdir={place}/work", f"upperdir={place}/upper"]
    return Mount(type="overlay", source="overlay", options=[*options, f"lowerdir={lowers}"])


def points(bundle):
    return procfs.own_mount_points(str(bundle))


def run_to_end(shim, bundle, mounts, outputs):
    """What the container wrote, and its exit status, from Create to Delete."""
    out = outputs()
    shim.task.create(bundle, rootfs=mounts, stdout=str(out), stderr=str(outputs()))
    assert points(bundle)
    shim.task.start(bundle.id)
    status = shim.task.wait(bundle.id).exit_status
    shim.task.delete(bundle.id)
    assert points(bundle) == []
    return out.read(), status


def test_an_overlay_is_there_from_create_to_delete(mountable, start_shim, place, rootfs, outputs):
    bundle = mountable("hello", ["/bin/sh", "-c", "echo x >/new; cat /new"])
    shim = start_shim(bundle)
    said, status = run_to_end(shim, bundle, [overlay(place, rootfs)], outputs)
    assert (said, status) == (b"x\n", 0)
    assert (place / "upper" / "new").read_text() == "x\n"


def test_an_overlay_of_120_layers(mountable, start_shim, place, rootfs, outputs):
    layers = []
    for number in range(120):
        layer = place / "snapshots" / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"layer{number}").touch()
        layers.append(layer)
    shutil.copytree(rootfs, place / "snapshots" / "base" / "fs", symlinks=True)
    bundle = mountable("hello", ["/bin/sh", "-c", "ls -d /layer* | wc -l"])
    shim = start_shim(bundle)
    mount = overlay(place, place / "snapshots" / "base" / "fs", *layers)
    assert sum(map(len, mount.options)) > 4096
    said, status = run_to_end(shim, bundle, [mount], outputs)
    assert (said.strip(), status) == (b"120", 0)


def test_a_read_only_bind(mountable, start_shim, rootfs, outputs):
    bundle = mountable("hello", ["/bin/sh", "-c", "echo x >/new"])
    shim = start_shim(bundle)
    mount = Mount(type="bind", source=str(rootfs), options=["rbind", "ro"])
    _, status = run_to_end(shim, bundle, [mount], outputs)
    assert status == 1
    assert not (rootfs / "new").exists()


@pytest.mark.stock(skip="ignores targets", before=(1, 7))
def test_mounts_at_places_in_others(mountable, start_shim, place, rootfs, outputs):
    (place / "data").mkdir()
    (place / "data" / "file").write_text("data")
    bundle = mountable("hello", ["/bin/cat", "/etc/file"])
    shim = start_shim(bundle)
    mounts = [
        overlay(place, rootfs),
        Mount(type="bind", source=str(place / "data"), target="/etc", options=["bind", "ro"]),
        Mount(type="tmpfs", source="tmpfs", target="tmp", options=["size=64k"]),
    ]
    said, status = run_to_end(shim, bundle, mounts, outputs)
    assert (said, status) == (b"data", 0)


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="this kernel has no loop")
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4: install e2fsprogs")
def test_a_file_system_in_a_file(mountable, start_shim, place, rootfs, outputs):
    image = place / "image"
    command = ["mkfs.ext4", "-q", "-d", str(rootfs), str(image), "16m"]
    subprocess.run(command, check=True, capture_output=True)
    bundle = mountable("hello", ["/bin/sh", "-c", "grep ' / ' /proc/mounts"])
    shim = start_shim(bundle)
    mount = Mount(type="ext4", source=str(image), options=["loop", "ro", "noload"])
    said, status = run_to_end(shim, bundle, [mount], outputs)
    assert status == 0
    assert said.startswith(b"/dev/loop")
    assert not backed_by(image)


def backed_by(image):
    """Loop devices on that file."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [path] if path.read_text().strip() == str(image) else []
        except OSError:  # it has gone meanwhile
            continue
    return found


@pytest.mark.stock(skip="has no idmapped rootfs", before=(2,))
def test_an_idmapped_overlay_in_a_user_namespace(mountable, start_shim, place, rootfs, outputs):
    bundle = mountable("hello", ["/bin/stat", "-c", "%u %g", "/bin/busybox"])
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux = bundle.config["linux"]
    linux["uidMappings"] = linux["gidMappings"] = maps
    linux["namespaces"].append({"type": "user"})
    bundle.save()
    bundle.path.chmod(0o711)  # as containerd does it for such a container
    for path in (place, place.parent, place / "bundles"):
        path.chmod(0o711)
    mount = overlay(place, rootfs)
    mount.options.extend(["uidmap=0:100000:65536", "gidmap=0:100000:65536"])
    os.chown(place / "upper", 100000, 100000)
    shim = start_shim(bundle)
    value = Options(io_uid=100000, io_gid=100000).SerializeToString()
    out = outputs()
    options = Any(type_url="containerd.runc.v1.Options", value=value)
    streams = {"stdout": str(out), "stderr": str(outputs())}
    shim.task.create(bundle, rootfs=[mount], options=options, **streams)
    assert points(place) == [str(bundle.path / "rootfs")]
    shim.task.start(bundle.id)
    assert shim.task.wait(bundle.id).exit_status == 0
    shim.task.delete(bundle.id)
    assert points(bundle) == []
    assert out.read() == b"0 0\n"


@pytest.mark.stock(varies="its reaper takes the helper's exit status away")
def test_a_helper_mounts_a_fuse_type(mountable, start_shim, place, rootfs, outputs):
    script = place / "mount.fuse3"
    script.write_text(f'#!/bin/sh\necho "$*" >{place}/said\nexec mount --bind "$1" "$2"\n')
    script.chmod(0o755)
    bundle = mountable("hello")
    shim = start_shim(bundle, environ={"PATH": f"{place}:{os.environ['PATH']}"})
    mount = Mount(type="fuse3.thing", source=str(rootfs), options=["a=b", "ro"])
    _, status = run_to_end(shim, bundle, [mount], outputs)
    assert status == 0
    expected = f"{rootfs} {bundle}/rootfs -o a=b -o ro -t thing\n"
    assert (place / "said").read_text() == expected


@pytest.mark.stock(varies="its reaper takes the helper's exit status away")
def test_a_helper_that_fails_is_told(mountable, start_shim, place, rootfs):
    (place / "mount.fuse3").write_text("#!/bin/sh\necho it is broken\nexit 3\n")
    (place / "mount.fuse3").chmod(0o755)
    bundle = mountable("hello")
    shim = start_shim(bundle, environ={"PATH": f"{place}:{os.environ['PATH']}"})
    for text in (
        f"mount helper [mount.fuse3 [src {bundle}/rootfs -t thing]] failed: ",
        "it is broken",
        "exit status 3",
    ):
        with refused(UNKNOWN, text):
            shim.task.create(bundle, rootfs=[Mount(type="fuse3.thing", source="src")])


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_when_a_mount_fails_the_others_are_undone(mountable, start_shim, place, rootfs, failing):
    bundle = mountable("hello")
    mounts = [
        overlay(place, rootfs),
        Mount(type="tmpfs", source="tmpfs"),
    ]
    mounts.insert(failing, Mount(type="nosuchfs", source="x"))
    shim = start_shim(bundle)
    with refused(UNKNOWN, "failed to mount rootfs component"):
        shim.task.create(bundle, rootfs=mounts)
    assert points(bundle) == []
    with refused(5, "not found"):
        shim.task.state(bundle.id)


def test_when_the_engine_fails_the_mounts_are_undone(mountable, start_shim, place, rootfs):
    bundle = mountable("hello", ["/no/such/program"])
    bundle.config["process"]["cwd"] = "relative"
    bundle.save()
    shim = start_shim(bundle)
    with refused(UNKNOWN, "OCI runtime create failed"):
        shim.task.create(bundle, rootfs=[overlay(place, rootfs)])
    assert points(bundle) == []


def test_a_missing_rootfs_directory_is_made(mountable, start_shim, place, rootfs, outputs):
    bundle = mountable("hello")
    (bundle.path / "rootfs").rmdir()
    shim = start_shim(bundle)
    _, status = run_to_end(shim, bundle, [overlay(place, rootfs)], outputs)
    assert status == 0
    assert (bundle.path / "rootfs").is_dir()


def test_without_mounts_the_rootfs_is_somebody_elses(mountable, start_shim, rootfs, outputs):
    bundle = mountable("hello")
    target = str(bundle.path / "rootfs")
    subprocess.run(["mount", "--bind", str(rootfs), target], check=True)
    try:
        shim = start_shim(bundle)
        shim.task.create(bundle)
        shim.task.start(bundle.id)
        shim.task.wait(bundle.id)
        shim.task.delete(bundle.id)
        assert points(bundle) == [target]
    finally:
        subprocess.run(["umount", target], check=True)


@ours_only("mounts on whatever the link leads to")
def test_a_rootfs_that_is_a_symlink_is_refused(mountable, start_shim, place, rootfs):
    bundle = mountable("hello")
    (place / "elsewhere").mkdir()
    (bundle.path / "rootfs").rmdir()
    (bundle.path / "rootfs").symlink_to(place / "elsewhere")
    shim = start_shim(bundle)
    with refused(UNKNOWN, f"failed to mount rootfs component: open {bundle}/rootfs: not a dir"):
        shim.task.create(bundle, rootfs=[overlay(place, rootfs)])
    assert points(place) == []


@ours_only("follows symlinks of the image, inside it")
def test_a_target_behind_a_symlink_is_refused(mountable, start_shim, place, rootfs):
    (place / "layer").mkdir()
    (place / "layer" / "link").symlink_to("/etc")
    bundle = mountable("hello")
    shim = start_shim(bundle)
    mounts = [
        overlay(place, rootfs, place / "layer"),
        Mount(type="tmpfs", source="tmpfs", target="link"),
    ]
    with refused(UNKNOWN, 'failed to join path "link" with root "'):
        shim.task.create(bundle, rootfs=mounts)
    assert points(bundle) == []


def test_a_busy_rootfs_fails_delete_and_delete_can_be_repeated(
    mountable, start_shim, place, rootfs
):
    bundle = mountable("hello")
    shim = start_shim(bundle)
    shim.task.create(bundle, rootfs=[overlay(place, rootfs)])
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    holder = subprocess.Popen(["sleep", "100"], cwd=bundle.path / "rootfs")
    try:
        with refused(UNKNOWN, "failed rootfs umount: "):
            shim.task.delete(bundle.id)
        assert shim.task.state(bundle.id).status == STOPPED
    finally:
        holder.kill()
        holder.wait()
    shim.task.delete(bundle.id)
    assert points(bundle) == []


@ours_only("has no such choice")
def test_an_operator_may_have_busy_mounts_detached(mountable, start_shim, place, rootfs):
    bundle = mountable("hello")
    shim = start_shim(bundle, environ={"PYRUNC_LAZY_UNMOUNT": "1"})
    shim.task.create(bundle, rootfs=[overlay(place, rootfs)])
    shim.task.start(bundle.id)
    shim.task.wait(bundle.id)
    holder = subprocess.Popen(["sleep", "100"], cwd=bundle.path / "rootfs")
    try:
        shim.task.delete(bundle.id)
        assert points(bundle) == []
        assert "busy mount was detached" in shim.log()
    finally:
        holder.kill()
        holder.wait()


def test_the_delete_command_unmounts_what_a_killed_shim_left(mountable, start_shim, place, rootfs):
    bundle = mountable("sleep")
    shim = start_shim(bundle)
    shim.task.create(bundle, rootfs=[overlay(place, rootfs)])
    shim.task.start(bundle.id)
    os.kill(shim.pid, 9)
    shim.wait_gone()
    assert points(bundle)
    began = time.monotonic()
    assert shim.run_delete(bundle).status == 0
    assert time.monotonic() - began < 5
    assert points(bundle) == []


@ours_only("has 2.5 s more after an engine that took all the time there is")
def test_the_delete_command_is_in_time_when_the_rootfs_is_busy(
    mountable, start_shim, place, rootfs, fake_engine
):
    bundle = mountable("sleep")
    shim = start_shim(bundle)
    value = Options(binary_name=str(fake_engine.path)).SerializeToString()
    options = Any(type_url="containerd.runc.v1.Options", value=value)
    shim.task.create(bundle, rootfs=[overlay(place, rootfs)], options=options)
    shim.task.start(bundle.id)
    os.kill(shim.pid, 9)
    shim.wait_gone()
    holder = subprocess.Popen(["sleep", "100"], cwd=bundle.path / "rootfs")
    fake_engine.on("delete", "sleep 3")
    try:
        began = time.monotonic()
        result = shim.run_delete(bundle)
        assert result.status == 0
        assert time.monotonic() - began < 5
        assert b"failed to cleanup rootfs mount: failed to unmount target" in result.stderr
    finally:
        holder.kill()
        holder.wait()
        fake_engine.behave("delete")


@pytest.mark.stock(skip="passes it on to the kernel", before=(2, 2))
def test_options_for_the_mount_manager_are_refused(mountable, start_shim):
    bundle = mountable("hello")
    shim = start_shim(bundle)
    mount = Mount(type="tmpfs", source="tmpfs", options=["X-containerd.mkfs.size=1"])
    with refused(UNKNOWN, 'internal mount option "X-containerd.mkfs.size=1" was not consumed'):
        shim.task.create(bundle, rootfs=[mount])
