"""What the stock shim does is not the question here: these tests are for our binary alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import Options


def pytest_collection_modifyitems(config, items):
    others = [
        item
        for item in items
        if Path(__file__).parent in item.path.parents
        and getattr(getattr(item, "callspec", None), "params", {}).get("binary") is not None
        and item.callspec.params["binary"].stock
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


@pytest.fixture
def with_engine():
    """`with_engine(path)`: options that name this engine."""

    def make(path):
        value = Options(binary_name=str(path)).SerializeToString()
        return Any(type_url="containerd.runc.v1.Options", value=value)

    return make
