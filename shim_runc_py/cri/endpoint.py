"""Where a CRI daemon listens: the rules of the kubelet for `--container-runtime-endpoint`.

`unix:///run/containerd/containerd.sock` is the form to use. A bare path is taken as one, with a
warning. Everything else is refused: gRPC over TCP would give the node away to whoever connects.
"""

from __future__ import annotations

import logging

DEFAULT = "unix:///run/containerd/containerd.sock"
_log = logging.getLogger(__name__)


def parse(endpoint: str) -> str:
    """The path of the socket. Raises ValueError, which names the endpoint and what it should be."""
    if not endpoint:
        raise ValueError(f"the CRI endpoint is empty; use a socket such as {DEFAULT}")
    scheme, separator, path = endpoint.partition("://")
    if not separator:
        if ":" in endpoint.partition("/")[0]:
            raise ValueError(_refusal(endpoint, endpoint.partition(":")[0]))
        _log.warning("CRI endpoint %s: better write it as unix://%s", endpoint, endpoint)
        scheme, path = "unix", endpoint
    if scheme != "unix":
        raise ValueError(_refusal(endpoint, scheme))
    if not path.startswith("/"):
        raise ValueError(
            f"CRI endpoint {endpoint}: the path of a unix socket is absolute, as in {DEFAULT}"
        )
    return path


def _refusal(endpoint: str, scheme: str) -> str:
    return (
        f"CRI endpoint {endpoint}: {scheme} is not supported; use a unix socket such as {DEFAULT}"
    )
