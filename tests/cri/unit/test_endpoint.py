"""Where a CRI daemon may listen."""

from __future__ import annotations

import logging

import pytest

from shim_runc_py.cri import endpoint


def test_a_unix_url_is_taken_silently(caplog):
    assert endpoint.parse("unix:///run/c.sock") == "/run/c.sock"
    assert not caplog.records


def test_a_bare_path_is_taken_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert endpoint.parse("/run/c.sock") == "/run/c.sock"
    assert "unix:///run/c.sock" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("tcp://127.0.0.1:1234", "tcp is not supported"),
        ("npipe:////./pipe/c", "npipe is not supported"),
        ("http://localhost", "http is not supported"),
        ("localhost:1234", "localhost is not supported"),
        ("unix:/run/c.sock", "unix is not supported"),
        ("unix://run/c.sock", "absolute"),
        ("unix://", "absolute"),
        ("run/c.sock", "absolute"),
    ],
)
def test_everything_else_is_refused_with_the_form_to_use(text, words):
    with pytest.raises(ValueError, match=words) as error:
        endpoint.parse(text)
    assert endpoint.DEFAULT in str(error.value)
