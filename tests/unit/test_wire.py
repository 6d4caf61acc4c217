"""shim.wire against the generated protobuf classes, which it stands in for."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import DoubleValue, FloatValue, UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from shim_runc_py.api.bootstrap_pb2 import BootstrapParams, BootstrapResult, Extension
from shim_runc_py.api.introspection_pb2 import RuntimeInfo, RuntimeVersion
from shim_runc_py.api.task_pb2 import DeleteResponse
from shim_runc_py.shim import wire
from tests.property.profiles import examples

texts = st.text(st.characters(codec="utf-8"), max_size=20)
anys = st.builds(Any, type_url=texts, value=st.binary(max_size=20))
params = st.builds(
    BootstrapParams,
    instance_id=texts,
    namespace=texts,
    log_level=st.sampled_from([0, -8, -4, 4, 8, 10, 12]),
    containerd_version=texts,
    containerd_ttrpc_address=texts,
    extensions=st.lists(st.builds(Extension, value=anys), max_size=3),
    socket_dir=texts,
)


@given(params)
@examples(100)
def test_it_reads_what_protobuf_writes(message):
    found = wire.fields(message.SerializeToString())
    assert wire.first_text(found, 1) == message.instance_id
    assert wire.first_text(found, 2) == message.namespace
    levels = [value for number, value in found if number == 3]
    assert levels == ([message.log_level & (1 << 64) - 1] if message.log_level else [])
    assert wire.first_text(found, 4) == message.containerd_version
    assert wire.first_text(found, 5) == message.containerd_ttrpc_address
    inner = [
        wire.first_bytes(wire.fields(value), 1)
        for number, value in found
        if number == 8 and isinstance(value, bytes)
    ]
    assert [Any.FromString(value) for value in inner] == [e.value for e in message.extensions]
    assert wire.first_text(found, 9) == message.socket_dir


@given(version=st.integers(-(2**31), 2**31 - 1), address=texts, protocol=texts)
@examples(60)
def test_protobuf_reads_what_it_writes(version, address, protocol):
    data = wire.number(1, version) + wire.text(2, address) + wire.text(3, protocol)
    message = BootstrapResult(version=version, address=address, protocol=protocol)
    assert BootstrapResult.FromString(data) == message
    assert data == message.SerializeToString()


@given(
    pid=st.integers(0, 2**32 - 1),
    seconds=st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
@examples(60)
def test_protobuf_reads_a_message_in_a_message(pid, seconds, nanos):
    at = wire.number(1, seconds) + wire.number(2, nanos)
    data = wire.number(1, pid) + wire.number(2, 137) + wire.text(3, at)
    message = DeleteResponse.FromString(data)
    assert (message.pid, message.exit_status) == (pid, 137)
    assert (message.exited_at.seconds, message.exited_at.nanos) == (seconds, nanos)


@given(st.integers(-(2**63), 2**64 - 1))
@examples(60)
def test_a_varint_is_that_of_protobuf(value):
    data = wire.varint(value)
    unsigned = value & (1 << 64) - 1
    assert UInt64Value.FromString(b"\x08" + data).value == unsigned
    assert wire.fields(b"\x08" + data) == [(1, unsigned)]


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"),
        (2**63, "80808080808080808001"), (-1, "ffffffffffffffffff01"),
        (2**64 - 1, "ffffffffffffffffff01"),
    ],
)  # fmt: skip
def test_bytes_of_a_varint(value, data):
    assert wire.varint(value).hex() == data


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, width=32))
@examples(40)
def test_fixed_numbers_are_read_by_their_bits(double, single):
    found = wire.fields(
        DoubleValue(value=double).SerializeToString() + FloatValue(value=single).SerializeToString()
    )
    expected = []
    if DoubleValue(value=double).ByteSize():
        expected.append((1, int.from_bytes(struct.pack("<d", double), "little")))
    if FloatValue(value=single).ByteSize():
        expected.append((1, int.from_bytes(struct.pack("<f", single), "little")))
    assert found == expected


@pytest.mark.parametrize("last", [0x00, 0x01, 0x02, 0x7F])
def test_bits_beyond_the_64th_are_dropped_as_protobuf_does(last):
    data = b"\x08" + b"\xff" * 9 + bytes([last])
    assert wire.fields(data) == [(1, UInt64Value.FromString(data).value)]


def test_a_default_is_not_written():
    assert wire.number(1, 0) == b""
    assert wire.text(1, "") == b""
    assert wire.text(1, b"") == b""


def test_field_numbers_above_fifteen_take_two_bytes():
    assert wire.number(16, 1) == b"\x80\x01\x01"
    assert wire.fields(wire.text(2**29 - 1, "x")) == [(2**29 - 1, b"x")]


def test_a_text_may_be_given_as_either():
    info = RuntimeInfo(name="ä", version=RuntimeVersion(version="1"))
    assert wire.text(1, "ä") + wire.text(2, wire.text(1, b"1")) == info.SerializeToString()


def test_the_last_value_of_a_field_counts():
    data = wire.text(1, "one") + wire.text(2, "x") + wire.text(1, "two")
    assert wire.first_text(wire.fields(data), 1) == "two"
    assert wire.first_bytes(wire.fields(data), 1) == b"two"
    assert BootstrapParams.FromString(data).instance_id == "two"


def test_an_absent_field_is_empty():
    assert wire.first_text([], 1) == ""
    assert wire.first_bytes(wire.fields(wire.number(2, 5)), 1) == b""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("08", "a number is cut off or too long"),
        ("0880", "a number is cut off or too long"),
        ("80", "a number is cut off or too long"),
        ("08" + "ff" * 10 + "01", "a number is cut off or too long"),
        ("0a", "a number is cut off or too long"),
        ("0a02", "a field is longer than the message"),
        ("0a0261", "a field is longer than the message"),
        ("0affffffffffffffffff01", "a field is longer than the message"),
        ("0900000000000000", "a field is longer than the message"),
        ("0d000000", "a field is longer than the message"),
        ("0b0c", "wire type 3"),
        ("0c", "wire type 4"),
        ("0e", "wire type 6"),
        ("0f", "wire type 7"),
        ("0000", "field number 0"),
        (b"unix:///run/containerd/s/abc".hex(), "wire type 7"),
        (b'{"version":3}'.hex(), "wire type 3"),
    ],
)
def test_what_is_no_message_is_refused(data, text):
    with pytest.raises(wire.WireError) as caught:
        wire.fields(bytes.fromhex(data))
    assert str(caught.value) == text


def test_a_text_that_is_no_text_is_refused():
    with pytest.raises(wire.WireError, match="a string is no UTF-8"):
        wire.first_text(wire.fields(wire.text(1, b"\xff")), 1)
    with pytest.raises(wire.WireError, match="a field has another type"):
        wire.first_text(wire.fields(wire.number(1, 5)), 1)


@given(st.binary(max_size=40))
@examples(200)
def test_garbage_gives_fields_or_a_wire_error(data):
    try:
        found = wire.fields(data)
    except wire.WireError:
        return
    for number, value in found:
        assert number > 0
        assert isinstance(value, bytes) or 0 <= value < 1 << 64


@given(params)
@examples(40)
def test_every_part_of_a_message_is_read_or_refused(message):
    data = message.SerializeToString()
    whole = wire.fields(data)
    for cut in range(len(data)):
        try:
            found = wire.fields(data[:cut])
        except wire.WireError:
            continue
        assert found == whole[: len(found)]
        assert len(found) < len(whole)


def test_negative_seconds_survive():
    data = wire.number(1, -62135596800)
    assert data == bytes.fromhex("088092b8c398feffffff01")
    assert Duration.FromString(data).seconds == -62135596800
