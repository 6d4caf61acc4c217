"""A gRPC connection to a CRI daemon: dialling, the version of the API, one call.

It knows paths and messages, not what they mean: that is runtime.py and images.py.

The version is found as the kubelet of the years of both finds it: ask runtime.v1 for its Version,
and only if that is not served ask runtime.v1alpha2, whose messages are the same. Any other failure
ends the attempt: a daemon in trouble must not be taken for an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from shim_runc_py.cri import endpoint as endpoints
from shim_runc_py.cri import failures
from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.meter import Meter

V1 = "v1"
V1ALPHA2 = "v1alpha2"
CLIENT_VERSION = "0.1.0"  # what kubelets say in VersionRequest
CONNECT_TIMEOUT = 5.0
CALL_TIMEOUT = 120.0  # the kubelet's --runtime-request-timeout
MAXIMUM_MESSAGE = 16 << 20

Reply = TypeVar("Reply", bound=Message)


class Connection:
    """One channel to one daemon; `version` is the API that it speaks. To be closed."""

    def __init__(
        self,
        endpoint: str = endpoints.DEFAULT,
        *,
        connect_timeout: float | None = None,
        call_timeout: float = CALL_TIMEOUT,
        version: str | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Dial and find the version, unless `version` says it; timeouts in seconds, for connecting
        CONNECT_TIMEOUT if it is None.

        Raises ValueError for an endpoint that is none, Unreachable when nobody who speaks gRPC
        answers in time, NotServed when the daemon has no CRI, CRIError for other answers.
        """
        self.endpoint = endpoint
        self.call_timeout = call_timeout
        self.meter = meter or Meter()
        path = endpoints.parse(endpoint)
        self._channel = grpc.insecure_channel(
            f"unix:{path}",
            options=[
                ("grpc.max_receive_message_length", MAXIMUM_MESSAGE),
                ("grpc.max_send_message_length", MAXIMUM_MESSAGE),
                ("grpc.default_authority", "localhost"),  # a path is none, says Go's server
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 3000),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        try:
            self._dial(path, CONNECT_TIMEOUT if connect_timeout is None else connect_timeout)
            self.version = version or self._find_version()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        service: str,
        operation: str,
        request: Message,
        reply: type[Reply],
        timeout: float | None,
        version: str = "",
    ) -> Reply:
        """One unary call; `timeout` in seconds, None for none. Raises CRIError."""
        path = f"/runtime.{version or self.version}.{service}/{operation}"
        method = self._channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            answer: Reply = method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise failures.from_rpc(operation, error) from None
        return answer

    def stream(
        self, service: str, operation: str, request: Message, reply: type[Reply]
    ) -> Stream[Reply]:
        """A call whose answers come one by one until it is cancelled. Raises CRIError."""
        path = f"/runtime.{self.version}.{service}/{operation}"
        method = self._channel.unary_stream(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return Stream(operation, method(request))

    def _dial(self, path: str, timeout: float) -> None:
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout)
        except grpc.FutureTimeoutError:
            ready.cancel()
            raise failures.Unreachable(
                "connect", f"nobody speaks gRPC at {path} (waited {timeout:g} s)"
            ) from None

    def _find_version(self) -> str:
        request = pb.VersionRequest(version=CLIENT_VERSION)
        for version in (V1, V1ALPHA2):
            try:
                self.call(
                    "RuntimeService",
                    "Version",
                    request,
                    pb.VersionResponse,
                    self.call_timeout,
                    version,
                )
            except failures.NotServed:
                continue
            return version
        raise failures.NotServed(
            "Version", f"the daemon at {self.endpoint} serves neither CRI {V1} nor {V1ALPHA2}"
        )


class Stream(Iterator[Reply]):
    """Answers of a streaming call; `cancel` from any thread ends the iteration."""

    def __init__(self, operation: str, call: Any) -> None:
        self._operation = operation
        self._call = call

    def __next__(self) -> Reply:
        try:
            answer: Reply = next(self._call)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            raise failures.from_rpc(self._operation, error) from None
        return answer

    def cancel(self) -> None:
        self._call.cancel()
