"""Where a shim listens, and with whom it shares (CONTRACT 4.1, 4.2).

Pure, but for the reading of config.json; in the launcher's import budget: `hashlib` would load
OpenSSL, and `json` would load `re`.
"""

import sys

GROUP_ANNOTATIONS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def clean(path: str) -> str:
    """A path as Go's path.Clean leaves it: without //, /./ and /../."""
    rooted = path.startswith("/")
    kept: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            kept.append(part)
        elif kept and kept[-1] != "..":
            kept.pop()
        elif not rooted:
            kept.append(part)
    return ("/" if rooted else "") + "/".join(kept) or "."


def socket_path(directory: str, containerd: str, namespace: str, group: str) -> str:
    """The socket for a group (or a single task) of a containerd's namespace."""
    joined = clean("/".join(part for part in (containerd, namespace, group) if part))
    return f"{directory}/{_sha256(joined.encode())}"


def _sha256(data: bytes) -> str:
    try:
        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:  # a module that is not there is looked for in every directory of sys.path
            from _sha256 import sha256
    except ImportError:
        from hashlib import sha256
    digest: str = sha256(data).hexdigest()
    return digest


def group(config: bytes) -> str:
    """The grouping id in the text of a config.json, "" for none; raises ValueError.

    The order of the annotations counts, and one that is there with an empty value is there.
    """
    if not any(name.encode() in config for name in GROUP_ANNOTATIONS):
        return ""
    spec = _load_json(config.decode())
    annotations = spec.get("annotations") if isinstance(spec, dict) else None
    if isinstance(annotations, dict):
        for name in GROUP_ANNOTATIONS:
            found = annotations.get(name)
            if isinstance(found, str):
                return found
    return ""


class _Plain:
    """What the JSON scanner of CPython asks for; the values are those of `json.loads`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _load_json(text: str) -> object:
    try:
        from _json import make_scanner
    except ImportError:
        from json import loads

        return loads(text)
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        return make_scanner(_Plain)(text, start)[0]  # type: ignore[arg-type]
    except StopIteration:
        raise ValueError("config.json is no JSON") from None
