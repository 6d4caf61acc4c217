"""Requests that cannot be meant: a clear status, and the shim stays up (SEMANTICS 1.0)."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.any_pb2 import Any

from shim_runc_py.api.runc_options_pb2 import CheckpointOptions, Options
from shim_runc_py.linux import sock
from shim_runc_py.testing.shims import refused
from shim_runc_py.ttrpc import frame
from shim_runc_py.ttrpc.envelope_pb2 import Request, Response

INVALID, EXISTS, NOT_FOUND, UNKNOWN = 3, 6, 5, 2


def ours_only(reason):
    return pytest.mark.stock(skip=reason)


@pytest.fixture
def shim(make_bundle, start_shim):
    """A shim with a container that was created."""
    bundle = make_bundle("sleep")
    started = start_shim(bundle)
    started.task.create(bundle)
    started.bundle = bundle
    yield started
    # Whatever was asked: the shim answers, and the container is what it was.
    assert started.task.state(bundle.id).status == 1


@ours_only("unmounts the rootfs of the running container")
def test_create_twice_is_refused_and_touches_nothing(shim):
    before = {p.name: p.stat().st_mtime_ns for p in shim.bundle.path.iterdir()}
    with refused(EXISTS, f"container {shim.bundle.id}: already exists"):
        shim.task.create(shim.bundle)
    assert {p.name: p.stat().st_mtime_ns for p in shim.bundle.path.iterdir()} == before


@ours_only("dies of a nil pointer")
def test_an_exec_without_a_spec_is_refused(shim):
    with refused(INVALID, "has no process spec"):
        shim.task.call("Exec", id=shim.bundle.id, exec_id="e1")


@ours_only("answers Unknown with words of Go's decoder")
@pytest.mark.parametrize("value", [b"{bad", b"[]", b'"x"', b"\xff\xfe", b"{}" * 100000])
def test_an_exec_whose_spec_is_no_object_is_refused(shim, value):
    spec = Any(type_url="x", value=value)
    with refused(INVALID, "process spec of exec e1 is no JSON object"):
        shim.task.call("Exec", id=shim.bundle.id, exec_id="e1", spec=spec)


HOSTILE = ["", ".", "..", "a/../..", "/etc", "a b", "a\nb", "-x", "x" * 77, "x" * (1 << 20), "é"]


@ours_only("relies on containerd's check of names")
@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name[:10]))
def test_hostile_names_are_refused(shim, make_bundle, name):
    with refused(INVALID, "exec id"):
        shim.task.exec(shim.bundle.id, name, {"args": ["/bin/true"]})
    with refused(INVALID, "container id"):
        shim.task.call("Create", id=name, bundle=str(shim.bundle))


def test_a_missing_bundle_is_not_found(shim):
    missing = f"{shim.bundle}-missing"
    with refused(NOT_FOUND, f"open {missing}/options.json: no such file or directory"):
        shim.task.call("Create", id="other", bundle=missing)


def test_an_unreadable_config_is_told_by_the_engine(shim, make_bundle):
    bundle = make_bundle("sleep")
    (bundle.path / "config.json").write_text("{not json")
    with refused(UNKNOWN, "OCI runtime create failed: "):
        shim.task.create(bundle)


@ours_only("dies of a failed type assertion, or ignores them")
@pytest.mark.parametrize(
    ("type_url", "value", "text"),
    [
        (
            "containerd.runc.v1.CheckpointOptions",
            CheckpointOptions(exit=True).SerializeToString(),
            'options of type "containerd.runc.v1.CheckpointOptions"',
        ),
        ("foo.bar", b"x", 'options of type "foo.bar"'),
        ("", b"x", 'options of type ""'),
        ("containerd.runc.v1.Options", b"\xff\xff\xff", "options are no containerd.runc.v1"),
    ],
)
def test_options_of_a_wrong_type_are_refused(shim, make_bundle, type_url, value, text):
    with refused(INVALID, text):
        shim.task.create(make_bundle("sleep"), options=Any(type_url=type_url, value=value))


def test_options_without_a_value_are_no_options(shim, make_bundle):
    bundle = make_bundle("sleep")
    shim.owns(bundle)
    shim.task.create(bundle, options=Any(type_url="containerd.runc.v1.Options"))
    assert (bundle.path / "options.json").read_text() == "{}"


@pytest.mark.stock(skip="wants the exact name", before=(1, 7))
def test_options_may_be_named_with_a_host(shim, make_bundle):
    bundle = make_bundle("sleep")
    shim.owns(bundle)
    value = Options(no_new_keyring=True).SerializeToString()
    options = Any(type_url="type.googleapis.com/containerd.runc.v1.Options", value=value)
    shim.task.create(bundle, options=options)
    assert (bundle.path / "options.json").read_text() == '{"no_new_keyring":true}'


class Raw:
    """A connection on which frames of any kind can be sent."""

    def __init__(self, path):
        self.sock = sock.unix(blocking=True)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self._splitter = frame.Splitter()

    def send(self, data):
        self.sock.sendall(data)

    def answer(self):
        """(stream, status code, message) of the next response."""
        while True:
            data = self.sock.recv(65536)
            assert data, "the connection was closed"
            for got in self._splitter.feed(data):
                status = Response.FromString(got.payload).status
                return got.stream, status.code, status.message


@pytest.fixture
def raw(shim):
    connection = Raw(shim.path)
    yield connection
    connection.sock.close()


@pytest.fixture
def request_(shim):
    """`request_(stream, ...)`: the bytes of a request frame."""

    def make(stream, *, method="Connect", **fields):
        body = Request(service=shim.task.service, method=method, **fields).SerializeToString()
        return frame.pack(stream, frame.REQUEST, 0, body)

    return make


def test_an_even_stream_is_refused_and_the_connection_lives(raw, request_):
    raw.send(request_(2))
    assert raw.answer() == (2, 3, "StreamID must be odd for client initiated streams")
    raw.send(request_(1))
    assert raw.answer() == (1, 0, "")


@pytest.mark.stock(skip="streams may come in any order", before=(1, 7))
def test_a_stream_that_goes_back_is_refused(raw, request_):
    raw.send(request_(5))
    assert raw.answer()[:2] == (5, 0)
    raw.send(request_(5) + request_(3))
    assert raw.answer() == (5, 3, "StreamID cannot be re-used and must increment")


def test_a_request_that_is_none_is_refused(raw):
    raw.send(frame.pack(1, frame.REQUEST, 0, b"\xff\xff\xff\xff"))
    stream, code, message = raw.answer()
    assert (stream, code) == (1, 3)
    assert message.startswith("unmarshal request error: ")


@pytest.mark.stock(skip="answers with status 2", before=(1, 7))
def test_a_payload_that_is_none_is_told(raw, request_):
    raw.send(request_(1, payload=b"\xff\xff\xff"))
    stream, code, message = raw.answer()
    assert (stream, code) == (1, 13)
    assert message.startswith("ttrpc: error unmarshalling payload: ")


@ours_only("dies of it, or knows no data frames")
def test_data_for_a_stream_that_is_not_there_is_refused(raw):
    raw.send(frame.pack(7, frame.DATA, 0, b"x"))
    assert raw.answer() == (7, 3, "StreamID is no longer active")


@pytest.mark.stock(skip="closes the connection", before=(1, 7))
def test_an_unknown_kind_of_frame_is_ignored(raw, request_):
    raw.send(frame.pack(1, 77, 0, b"x") + request_(1))
    assert raw.answer() == (1, 0, "")


@pytest.mark.parametrize("length", [(4 << 20) + 1, 8 << 20])
def test_an_oversize_message_is_refused_and_the_connection_lives(raw, length, request_):
    raw.send(struct.pack(">IIBB", length, 1, 1, 0))
    block = bytes(1 << 16)
    left = length
    while left:
        left -= raw.sock.send(block[: min(left, len(block))])
    text = f"message length {length} exceed maximum message size of 4194304"
    assert raw.answer() == (1, 8, text)
    raw.send(request_(3))
    assert raw.answer() == (3, 0, "")


def test_a_message_of_exactly_4_mib_is_taken(raw, shim):
    body = Request(service=shim.task.service, method="Connect")
    body.metadata.add(key="k", value="v" * ((4 << 20) - 100))
    data = body.SerializeToString()
    while len(data) < 4 << 20:
        body.metadata[0].value += "v" * ((4 << 20) - len(data))
        data = body.SerializeToString()
    assert len(data) == 4 << 20
    raw.send(frame.pack(1, frame.REQUEST, 0, data))
    assert raw.answer() == (1, 0, "")


def test_a_header_of_nothing_but_ones_is_no_allocation(raw, shim):
    raw.send(b"\xff" * 10)
    raw.sock.close()
    assert shim.task.call("Connect", id="x").shim_pid == shim.pid


def test_a_frame_in_single_bytes_is_a_frame(raw, request_):
    for byte in request_(1):
        raw.send(bytes([byte]))
    assert raw.answer() == (1, 0, "")
