"""shim.address: where a shim listens, and with whom it shares (CONTRACT 4.1, 4.2)."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim_runc_py.shim import address
from tests.property.profiles import examples

GROUP, POD = address.GROUP_ANNOTATIONS
SOCK = "/run/containerd/containerd.sock"


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("", "."), (".", "."), ("/", "/"), ("//", "/"), ("///", "/"), ("..", ".."), ("./", "."),
        ("abc", "abc"), ("abc/def", "abc/def"), ("a/b/c", "a/b/c"), ("/abc", "/abc"),
        ("abc/", "abc"), ("abc/def/", "abc/def"), ("/abc/", "/abc"), ("../", ".."),
        ("../../", "../.."), ("abc//def//ghi", "abc/def/ghi"), ("//abc", "/abc"),
        ("///abc", "/abc"), ("//abc//", "/abc"), ("abc/./def", "abc/def"),
        ("/./abc/def", "/abc/def"), ("abc/.", "abc"), ("abc/./../def", "def"),
        ("abc/def/..", "abc"), ("abc/def/../..", "."), ("/abc/def/../..", "/"),
        ("abc/def/../../..", ".."), ("/abc/def/../../..", "/"), ("/../abc", "/abc"),
        ("abc/def/../../../ghi/jkl/../../../mno", "../../mno"),
        ("abc/./../def/./../../ghi", "../ghi"), ("...", "..."), ("/a/.../b", "/a/.../b"),
        ("a b/ c", "a b/ c"), ("ä//ö", "ä/ö"),
    ],
)  # fmt: skip
def test_a_path_is_cleaned_as_go_cleans_it(path, cleaned):
    assert address.clean(path) == cleaned


@given(st.text(alphabet="/.a", max_size=14))
@examples(300)
def test_cleaning_keeps_the_rules(path):
    cleaned = address.clean(path)
    assert address.clean(cleaned) == cleaned
    assert cleaned.startswith("/") == path.startswith("/")
    assert "//" not in cleaned
    parts = cleaned.strip("/").split("/")
    assert "." not in parts or cleaned == "."
    ups = [index for index, part in enumerate(parts) if part == ".."]
    assert ups == list(range(len(ups)))
    assert not (ups and cleaned.startswith("/"))


@pytest.mark.parametrize(
    ("parts", "digest"),
    [
        (
            (SOCK, "k8s.io", "c1"),
            "ccd9e484aa63698a22b33f8964a2eb3d2a5c6e843ccac78fda28f084794782cd",
        ),
        (
            (SOCK, "default", "redis/debug"),
            "85cbbbc9c96db79a9641bc82285af17595410e5a369bb0c244c9ca49fda8de87",
        ),
        (
            ("//run/./containerd/x/../containerd.sock", "k8s.io/", "c1"),
            "ccd9e484aa63698a22b33f8964a2eb3d2a5c6e843ccac78fda28f084794782cd",
        ),
    ],
)
def test_the_socket_of_a_task(parts, digest):
    assert address.socket_path("/run/containerd/s", *parts) == f"/run/containerd/s/{digest}"


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ((SOCK, "ns", ""), f"{SOCK}/ns"),
        (("", "ns", "id"), "ns/id"),
        ((SOCK, "", "id"), f"{SOCK}/id"),
        ((SOCK, "ns", "a/../b"), f"{SOCK}/ns/b"),
        (("/", "ns", "id"), "/ns/id"),
    ],
)
def test_empty_parts_do_not_count(parts, joined):
    digest = hashlib.sha256(joined.encode()).hexdigest()
    assert address.socket_path("/d", *parts) == f"/d/{digest}"


def test_the_path_leaves_room_for_the_longest_directory():
    path = address.socket_path("x" * 42, SOCK, "k8s.io", "c1")
    assert len(path) == 107


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ""),
        ({"other": "x"}, ""),
        ({GROUP: "g"}, "g"),
        ({POD: "p"}, "p"),
        ({GROUP: "g", POD: "p"}, "g"),
        ({POD: "p", GROUP: "g"}, "g"),
        ({GROUP: "", POD: "p"}, ""),
        ({GROUP: "", "x": "y"}, ""),
        ({POD: "ä"}, "ä"),
        ({POD: 'quo"ted\\'}, 'quo"ted\\'),
        ({GROUP: 5, POD: "p"}, "p"),
        ({GROUP: None, POD: "p"}, "p"),
        ({"x": GROUP}, ""),
        ({POD + ".more": "x"}, ""),
    ],
)
def test_the_annotation_that_counts(annotations, expected):
    spec = {"ociVersion": "1.0.2", "annotations": annotations, "root": {"path": "rootfs"}}
    for text in (json.dumps(spec), json.dumps(spec, indent=2, ensure_ascii=False)):
        assert address.group(text.encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"",
        b"no JSON, and no need to read it",
        b'["%b"]' % POD.encode(),
        b'"%b"' % POD.encode(),
        b'{"annotations": ["%b"]}' % POD.encode(),
        b'{"annotations": null, "x": "%b"}' % POD.encode(),
        b'{"linux": {"%b": "elsewhere"}}' % POD.encode(),
    ],
)
def test_without_the_annotation_there_is_no_group(text):
    assert address.group(text) == ""


@pytest.mark.parametrize("blank", [b"", b" ", b"\n\t\r "])
def test_blanks_around_do_not_matter(blank):
    text = blank + json.dumps({"annotations": {POD: "p"}}).encode() + blank
    assert address.group(text) == "p"


@pytest.mark.parametrize(
    "text",
    [
        b'{"annotations": {"%b": "p"}',
        b'{"annotations": {"%b": "p',
        b'{"annotations": {"%b" "p"}}',
        b"%b",
        b"\n  %b",
        b'{"annotations": {"%b": "\xff"}}',
        b'{"annotations": {"%b": "line\nbreak"}}',
        b"{'annotations': {'%b': 'p'}}",
    ],
)
def test_broken_json_is_said_to_be_so(text):
    with pytest.raises(ValueError):
        address.group(text % POD.encode())


@pytest.mark.parametrize(
    "value",
    [None, True, 1, -1.5, 1e308, "", [], {}, [[{}]], {"a": [1, {"b": "c"}]}, "\u2028\x7f\\"],
)
def test_values_are_those_of_the_json_package(value):
    text = json.dumps({"annotations": {POD: "p"}, "value": value})
    assert address._load_json(text) == json.loads(text)
