"""`pyrunc install`: put the shim where containerd finds it, and take it away again.

containerd looks for the binary in its own PATH, which no virtual environment is part of, and the
script that pip makes starts an interpreter with everything of the environment. So a copy of its own
is installed:

    PREFIX/lib/containerd-shim-pyrunc-v2/          the modules, byte-compiled, and nothing else
    PREFIX/lib/containerd-shim-pyrunc-v2/containerd-shim-pyrunc-v2      the Python launcher
    PREFIX/bin/containerd-shim-pyrunc-v2           the native launcher, else a copy of the above

The modules are made in a directory of their own and renamed into place: a `start` that runs
meanwhile finds the old ones or the new ones, and running shims have theirs in memory.
"""

from __future__ import annotations

import compileall
import importlib.util
import py_compile
import shutil
import sys
import tempfile
from pathlib import Path

from shim_runc_py.testing import launcher
from shim_runc_py.tools import native

NAME = launcher.NAME
_ROOMS_OF_OTHERS = ("testing", "tools", "cri")
_PACKAGE = Path(__file__).resolve().parents[1]


class InstallError(Exception):
    """It cannot be installed; the text says why and what to do."""


def install(prefix: Path, *, native_launcher: bool = True) -> list[str]:
    """Install below `prefix`; returns what was done, for a person. Raises InstallError."""
    library = prefix / "lib" / NAME
    try:
        (prefix / "bin").mkdir(parents=True, exist_ok=True)
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{NAME}.", dir=library.parent))
    except OSError as error:
        raise InstallError(f"{error.filename}: {error.strerror}; try sudo, or --prefix") from None
    try:
        fresh.chmod(0o755)
        _copy_modules(fresh)
        script = launcher.script(_interpreter(), [str(library)])
        _write(fresh / NAME, script.encode())
        old = library.with_name(f".{NAME}.old")
        shutil.rmtree(old, ignore_errors=True)
        if library.exists():
            library.rename(old)
        fresh.rename(library)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    said = [f"modules in {library}"]
    binary = compiled(native.LAUNCHER) if native_launcher else None
    target = prefix / "bin" / NAME
    if binary is not None:
        _write(target, binary)
        said.append(f"native launcher {target}")
    else:
        _write(target, script.encode())
        missing = "no C compiler, and none came with the package"
        reason = missing if native_launcher else "as asked for"
        said.append(f"Python launcher {target} ({reason})")
    return said


def uninstall(prefix: Path) -> list[str]:
    """Remove what `install` made below `prefix`; returns what. Raises InstallError."""
    said = []
    for path in (prefix / "bin" / NAME, prefix / "lib" / NAME):
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InstallError(f"{path}: {error.strerror}; try sudo") from None
        said.append(f"removed {path}")
    return said


def compiled(name: str) -> bytes | None:
    """A program of `native`: the one of the wheel, or compiled now; None without a compiler."""
    ready = _PACKAGE / "native" / name
    if ready.is_file():
        return ready.read_bytes()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / name
        return out.read_bytes() if native.build(name, _PACKAGE.parent, out) else None


def sources() -> list[tuple[Path, str]]:
    """What has to be there to run `install`: places of files and directories, and their names
    below one directory of sys.path. Raises InstallError.
    """
    found = [(_PACKAGE, "shim_runc_py")]
    for name in ("google.protobuf", "google._upb._message", "prctl", "_prctl"):
        path = _origin(name)
        if path.name == "__init__.py":
            path = path.parent
        found.append((path, "/".join([*name.split(".")[:-1], path.name])))
    return found


def _interpreter() -> str:
    """The interpreter itself, not the one of a virtual environment, which looks for its own."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.chmod(0o755)
    temporary.rename(path)


def _copy_modules(target: Path) -> None:
    ignored = shutil.ignore_patterns(
        "__pycache__", "*.pyi", "*.typed", "*.c", *_ROOMS_OF_OTHERS, "native"
    )
    shutil.copytree(_PACKAGE, target / "shim_runc_py", ignore=ignored)
    library = compiled(native.PAGES)
    if library is not None:
        (target / native.DIRECTORY).mkdir()
        (target / native.DIRECTORY / native.PAGES).write_bytes(library)
    google = target / "google"
    _copy_package("google.protobuf", google / "protobuf")
    (google / "__init__.py").touch()  # no search for further parts of a namespace
    (google / "_upb").mkdir()
    for name, place in (
        ("google._upb._message", google / "_upb"),
        ("prctl", target),
        ("_prctl", target),
    ):
        shutil.copy(_origin(name), place)
    compileall.compile_dir(
        target, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _copy_package(name: str, target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.pyi", "compiler", "testdata", "util")
    shutil.copytree(_origin(name).parent, target, ignore=ignored)


def _origin(name: str) -> Path:
    """The file of a module or package. Raises InstallError."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise InstallError(f"the module {name} is not installed for {sys.executable}")
    return Path(found.origin)
