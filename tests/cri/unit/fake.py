"""A CRI daemon that answers what it is told to, on a unix socket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from shim_runc_py.cri import runtime_v1_pb2 as pb

SERVICES = pb.DESCRIPTOR.services_by_name
VERSION = pb.VersionResponse(
    version="0.1.0", runtime_name="fake", runtime_version="1", runtime_api_version="v1"
)


class Refusal(Exception):
    """Makes a call fail with a gRPC status."""

    def __init__(self, code, text=""):
        super().__init__(text)
        self.code = code


class FakeDaemon(grpc.GenericRpcHandler):
    """`on(operation, answer)`: a message, a Refusal, or a function of the request. `calls` has
    (API version, operation, request, seconds that the caller gave or None).
    """

    def __init__(self, path, versions=("v1",)):
        self.path = path
        self.versions = versions
        self.calls = []
        self._answers = {"Version": VERSION}
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool)
        self._server.add_generic_rpc_handlers([self])
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    @property
    def endpoint(self):
        return f"unix://{self.path}"

    def on(self, operation, answer):
        self._answers[operation] = answer

    def requests(self, operation):
        return [request for _, name, request, _ in self.calls if name == operation]

    def given(self, operation):
        """The deadlines, in seconds from the call."""
        return [seconds for _, name, _, seconds in self.calls if name == operation]

    def stop(self):
        self._server.stop(None).wait()
        self._pool.shutdown()

    def service(self, handler_call_details):
        package, _, method = handler_call_details.method.lstrip("/").partition("/")
        _, version, service = package.split(".")
        if version not in self.versions:
            return None
        descriptor = SERVICES[service].methods_by_name[method]
        request_type = getattr(pb, descriptor.input_type.name)

        def unary(request, context):
            left = context.time_remaining()
            # Without a deadline gRPC says "for thousands of years".
            seconds = left if left is not None and left < 1e9 else None
            self.calls.append((version, method, request, seconds))
            answer = self._answers.get(method)
            if answer is None:
                answer = getattr(pb, descriptor.output_type.name)()
            if callable(answer):
                answer = answer(request)
            if isinstance(answer, Refusal):
                context.abort(answer.code, str(answer))
            return answer

        def stream(request, context):
            yield from unary(request, context)

        if descriptor.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                stream, request_type.FromString, lambda reply: reply.SerializeToString()
            )
        return grpc.unary_unary_rpc_method_handler(
            unary, request_type.FromString, lambda reply: reply.SerializeToString()
        )
