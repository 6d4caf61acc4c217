"""shim.flags: the command line as Go's flag package reads it (CONTRACT 2.1)."""

from __future__ import annotations

import pytest

from shim_runc_py.shim import flags

ATTRIBUTES = vars(flags.Flags())


def given(words):
    """What differs from the defaults."""
    found = vars(flags.parse(words))
    return {name: value for name, value in found.items() if value != ATTRIBUTES[name]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("start", {"action": "start"}),
        ("-namespace k8s.io", {"namespace": "k8s.io"}),
        ("-namespace=k8s.io", {"namespace": "k8s.io"}),
        ("--namespace k8s.io", {"namespace": "k8s.io"}),
        ("--namespace=k8s.io", {"namespace": "k8s.io"}),
        ("-namespace=", {}),
        ("-id a=b", {"id": "a=b"}),
        ("-id=a=b", {"id": "a=b"}),
        ("-id -debug", {"id": "-debug"}),
        ("-id -- start", {"id": "--", "action": "start"}),
        ("-id one -id two", {"id": "two"}),
        ("-publish-binary /usr/bin/containerd", {"publish_binary": "/usr/bin/containerd"}),
        ("-socket unix:///s", {"socket": "unix:///s"}),
        ("-debug-socket unix:///s", {"debug_socket": "unix:///s"}),
        ("-debug", {"debug": True}),
        ("-debug=true -debug=false", {}),
        ("-debug start", {"debug": True, "action": "start"}),
        ("-debug true", {"debug": True, "action": "true"}),
        ("-v", {"version": True}),
        ("--version", {"version": True}),
        ("-v=0", {}),
        ("-info", {"info": True}),
        ("start -debug", {"action": "start"}),
        ("-- -debug", {"action": "-debug"}),
        ("--", {}),
        ("-", {"action": "-"}),
        ("- -debug", {"action": "-"}),
        ("-id c1 start extra", {"id": "c1", "action": "start"}),
    ],
)
def test_words_become_values(line, expected):
    assert given(line.split()) == expected


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "TRUE", "True"])
def test_a_switch_is_on_with(word):
    assert given([f"-debug={word}"]) == {"debug": True}


@pytest.mark.parametrize("word", ["0", "f", "F", "false", "FALSE", "False"])
def test_a_switch_is_off_with(word):
    assert given([f"-debug={word}"]) == {}


def test_an_empty_word_is_the_action():
    assert flags.parse(["", "-debug"]).action == ""
    assert not flags.parse(["", "-debug"]).debug


def test_the_lines_of_containerd():
    common = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id c1"
    values = {
        "namespace": "k8s.io",
        "address": "/run/c.sock",
        "publish_binary": "/usr/bin/containerd",
        "id": "c1",
    }
    start = given(f"{common} -debug start".split())
    assert start == {**values, "debug": True, "action": "start"}
    delete = given(f"{common} -bundle /run/b delete".split())
    assert delete == {**values, "bundle": "/run/b", "action": "delete"}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-nosuch", "flag provided but not defined: -nosuch"),
        ("--nosuch=1", "flag provided but not defined: -nosuch"),
        ("-namespaces x", "flag provided but not defined: -namespaces"),
        ("-id", "flag needs an argument: -id"),
        ("-debug -id", "flag needs an argument: -id"),
        ("---id x", "bad flag syntax: ---id"),
        ("-=x", "bad flag syntax: -=x"),
        ("--=x", "bad flag syntax: --=x"),
        ("-debug=maybe", 'invalid boolean value "maybe" for -debug: parse error'),
        ("-debug=", 'invalid boolean value "" for -debug: parse error'),
        ("-v=yes", 'invalid boolean value "yes" for -v: parse error'),
    ],
)
def test_refusals_have_the_words_of_go(line, text):
    with pytest.raises(flags.FlagError) as caught:
        flags.parse(line.split())
    assert str(caught.value) == text


def test_the_words_given_are_left_alone():
    words = ["-id", "c1", "start"]
    flags.parse(words)
    assert words == ["-id", "c1", "start"]


def test_usage_names_every_flag_in_order():
    lines = flags.usage("shim").splitlines()
    assert lines[0] == "Usage of shim:"
    assert lines[1::2] == [
        "  -address string",
        "  -bundle string",
        "  -debug",
        "  -debug-socket string",
        "  -id string",
        "  -info",
        "  -namespace string",
        "  -publish-binary string",
        "  -socket string",
        "  -v",
        "  -version",
    ]
    assert all(line.startswith("    \t") for line in lines[2::2])
    assert flags.usage("shim").endswith("\n")
