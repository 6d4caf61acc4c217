"""runc.spec: what a shim reads in an OCI spec (SEMANTICS 5.4, 1.9; CONTRACT 1.4)."""

from __future__ import annotations

import json

import pytest

from shim_runc_py.runc import spec


def with_namespaces(*namespaces):
    return {"linux": {"namespaces": list(namespaces)}}


@pytest.mark.parametrize(
    ("config", "private"),
    [
        (with_namespaces({"type": "pid"}), True),
        (with_namespaces({"type": "mount"}, {"type": "pid"}), True),
        (with_namespaces({"type": "pid", "path": ""}), True),
        (with_namespaces({"type": "pid", "path": "/proc/1/ns/pid"}), False),
        (with_namespaces({"type": "mount"}), False),
        (with_namespaces(), False),
        (with_namespaces("pid", None, 5), False),
        ({"linux": {"namespaces": None}}, False),
        ({"linux": {"namespaces": {"type": "pid"}}}, False),
        ({"linux": {}}, False),
        ({"linux": None}, False),
        ({"linux": []}, False),
        ({}, False),
    ],
)
def test_a_pid_namespace_is_private_without_a_path(config, private):
    assert spec.has_private_pid_namespace(config) == private


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("kubepods-pod1.slice:cri-containerd:c1", True),
        ("system.slice:docker:c1", True),
        ("user.slice:nerdctl:c1", True),
        ("::", True),
        ("/k8s.io/c1", False),
        ("/kubepods/pod1/c1", False),
        ("c1", False),
        ("a:b", False),
        ("a:b:c:d", False),
        ("/a:b:c", False),
        ("a:b/c:d", False),
        ("", False),
        (None, False),
        (5, False),
    ],
)
def test_a_path_in_three_parts_is_for_systemd(path, wanted):
    assert spec.wants_systemd_cgroup({"linux": {"cgroupsPath": path}}) == wanted


def test_without_a_path_systemd_is_not_asked():
    assert not spec.wants_systemd_cgroup({})
    assert not spec.wants_systemd_cgroup({"linux": {}})
    assert not spec.wants_systemd_cgroup({"linux": None})


@pytest.mark.parametrize(
    ("given", "terminal", "expected"),
    [
        ('{"args":["sh"]}', True, '{"args":["sh"],"terminal":true}\n'),
        ('{"args":["sh"]}', False, '{"args":["sh"]}\n'),
        ('{"terminal":true,"args":["sh"]}', False, '{"args":["sh"]}\n'),
        ('{"terminal":false,"args":["sh"]}', True, '{"terminal":true,"args":["sh"]}\n'),
        ('{"terminal": true}', True, '{"terminal":true}\n'),
        ("{}", False, "{}\n"),
        ('{"unknown":{"z":1,"a":[null,1.5]}}', False, '{"unknown":{"z":1,"a":[null,1.5]}}\n'),
    ],
)
def test_the_request_decides_about_the_terminal(given, terminal, expected):
    assert spec.process_with_terminal(given.encode(), terminal) == expected.encode()


def test_no_character_of_a_process_is_lost():
    process = {"args": ["ä", "\u2028", "\0", '"\\', "\U0001f600"], "env": ["A=\n"]}
    for text in (json.dumps(process), json.dumps(process, ensure_ascii=False)):
        assert json.loads(spec.process_with_terminal(text.encode(), False)) == process


@pytest.mark.parametrize("given", [b"", b"[]", b'"x"', b"null", b"{", b'{"a":"\xff"}', b"{} {}"])
def test_what_is_no_process_is_refused(given):
    with pytest.raises(ValueError):
        spec.process_with_terminal(given, False)


def test_a_spec_is_read_from_the_bundle(directory):
    (directory / "config.json").write_text('{"ociVersion": "1.0.2"}')
    assert spec.read(str(directory)) == {"ociVersion": "1.0.2"}


@pytest.mark.parametrize("text", ["", "[]", "5", "{"])
def test_a_spec_that_is_none_is_refused(directory, text):
    (directory / "config.json").write_text(text)
    with pytest.raises(ValueError):
        spec.read(str(directory))


def test_a_bundle_without_a_spec_is_an_os_error(directory):
    with pytest.raises(FileNotFoundError):
        spec.read(str(directory))
