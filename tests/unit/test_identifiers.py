"""task.identifiers: which names there may be (CONTRACT 3)."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim_runc_py.errors import InvalidArgument
from shim_runc_py.task import identifiers
from tests.property.profiles import examples

# containerd's rule, as it is written there.
RULE = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*")


@pytest.mark.parametrize(
    "name",
    ["a", "0", "A", "c1", "k8s.io", "a-b", "a_b", "a.b-c_d", "moby", "0" * 76, "a-" * 37 + "ab"],
)
def test_a_good_name_comes_back(name):
    assert identifiers.check("id", name) == name


@pytest.mark.parametrize(
    "name",
    [
        ".", "..", "-", "_", ".a", "-a", "_a", "a.", "a-", "a_", "a..b", "a--b", "a.-b", "a__b",
        "a/b", "/a", "../a", "a b", " a", "a ", "a\n", "\na", "a\0", "a:b", "a@b", "a\\b", "ä",
        "é", "日本", "٣", "²", "a\u0301",
    ],
)  # fmt: skip
def test_a_bad_name_is_refused(name):
    with pytest.raises(InvalidArgument) as caught:
        identifiers.check("container id", name)
    text = str(caught.value)
    assert text.startswith(f"container id {name!r} must be letters and digits")
    assert text.endswith(": invalid argument")
    assert text.isprintable()


def test_an_empty_name_is_refused():
    with pytest.raises(InvalidArgument, match=r"^exec id must not be empty: invalid argument$"):
        identifiers.check("exec id", "")


def test_a_long_name_is_refused_and_not_repeated():
    with pytest.raises(InvalidArgument) as caught:
        identifiers.check("id", "x" * 77)
    assert str(caught.value) == (
        f"id '{'x' * 76}'... is longer than 76 characters: invalid argument"
    )


@given(st.one_of(st.text(alphabet="aZ0._-/ \n", max_size=8), st.text(max_size=8)))
@example("a" * 76)
@example("a" * 77)
@examples(300)
def test_the_rule_is_that_of_containerd(name):
    try:
        accepted = identifiers.check("id", name) == name
    except InvalidArgument:
        accepted = False
    assert accepted == (len(name) <= 76 and RULE.fullmatch(name) is not None)
