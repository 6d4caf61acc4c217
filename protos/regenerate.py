#!/usr/bin/env python3
"""Generate the protobuf modules of the package from the .proto files beside this script.

    python protos/regenerate.py [--out DIR]

Needs the `protos` dependency group (grpcio-tools, pinned in pyproject.toml): a different
protoc writes different files. Without --out the files are written into the checkout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
FOLDERS = ("api", "cri", "ttrpc")


def generate(out: Path) -> list[Path]:
    """Write `shim_runc_py/<folder>/*_pb2.py` and `.pyi` below `out`; return the paths written."""
    from grpc_tools import protoc

    out.mkdir(parents=True, exist_ok=True)
    # `virtual=real` gives each folder the name that it has as a Python package, so that the
    # generated modules import each other by their full names.
    roots = [f"-Ishim_runc_py/{folder}={PROTOS / folder}" for folder in FOLDERS]
    builtin = f"-I{Path(protoc.__file__).parent / '_proto'}"
    names = sorted(
        f"shim_runc_py/{folder}/{path.name}"
        for folder in FOLDERS
        for path in (PROTOS / folder).glob("*.proto")
    )
    argv = ["protoc", *roots, builtin, f"--python_out={out}", f"--pyi_out={out}", *names]
    if protoc.main(argv) != 0:
        raise SystemExit("protoc failed; its message is above")
    stems = [out / name.removesuffix(".proto") for name in names]
    return [stem.with_name(stem.name + end) for stem in stems for end in ("_pb2.py", "_pb2.pyi")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the protobuf modules.")
    parser.add_argument("--out", type=Path, default=PROTOS.parent, help="default: the checkout")
    for path in generate(parser.parse_args().out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
