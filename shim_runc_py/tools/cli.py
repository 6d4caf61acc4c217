"""`pyrunc`: what a person does with the shim; containerd never calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shim_runc_py import __version__

_PLACES = ("prefix", "config", "handler", "containerd")
_IN_PATH = ("/usr/local", "/usr")  # of containerd, wherever it was started


def parser() -> argparse.ArgumentParser:
    """The command line; man page and completions are made from it."""
    top = argparse.ArgumentParser(
        prog="pyrunc", description="Try and look after containerd-shim-pyrunc-v2."
    )
    top.add_argument("--version", action="version", version=f"pyrunc {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="run a container under a private containerd and show what happens",
        description="Start a private containerd, run, exec into, kill and delete a container "
        "through the shim, and check output, exit codes and events.",
    )
    demo.add_argument(
        "--runtime",
        default="io.containerd.pyrunc.v2",
        help="the runtime to show (default: %(default)s)",
    )
    check = commands.add_parser(
        "check",
        help="is what root runs here ours alone, and the engine new enough?",
        description="Look at the owners and modes of the interpreter, this package, the engine and "
        "the allowed loggers, and at the engine's version. Exit status 1 when something is wrong.",
    )
    check.add_argument("--engine", default="runc", help="name or path (%(default)s)")
    verify = commands.add_parser(
        "verify",
        help="run a pod through CRI on this node and check every step",
        description="Run one pod on this node as a kubelet would (sandbox, create, start, logs, "
        "exec, stats, stop, remove) with an image that is made here, and remove everything again.",
    )
    verify.add_argument("--handler", default="pyrunc", help="of the RuntimeClass (%(default)s)")
    verify.add_argument(
        "--endpoint",
        default="unix:///run/containerd/containerd.sock",
        help="where containerd serves CRI (%(default)s)",
    )
    verify.add_argument("--image", default="", help="an image of this node that has a shell")
    verify.add_argument(
        "-o",
        "--output",
        choices=["text", "json"],
        default="text",
        help="form of the report (%(default)s)",
    )
    install = commands.add_parser(
        "install",
        help="put the shim where containerd finds it, and register the handler",
        description="Copy the shim with everything it needs to DIR, and add the handler to "
        "containerd's configuration: as a marked block at its end, or as conf.d/pyrunc.toml where "
        "that is imported. containerd has to read the result and find nothing else changed, "
        "before it is put in place.",
    )
    uninstall = commands.add_parser(
        "uninstall",
        help="remove what install put there; running shims go on",
        description="Remove the shim from DIR and the handler from containerd's configuration. "
        "Running shims go on.",
    )
    for command in (install, uninstall):
        _add_places(command)
    install.add_argument(
        "--launcher-only", action="store_true", help="leave containerd's configuration alone"
    )
    install.add_argument(
        "--python-launcher",
        action="store_true",
        help="the Python launcher, even where the native one is possible",
    )
    node = commands.add_parser(
        "node",
        help="install or uninstall on the node around this container, for the DaemonSet",
        description="From inside a privileged container in the node's pid namespace: run install "
        "or uninstall on the node, with the node's Python, and set or remove the node's label. "
        "Uninstall removes the label first, then waits until no pod runs with the shim.",
    )
    node.add_argument("action", choices=["install", "uninstall"])
    _add_places(node)
    node.add_argument(
        "--name",
        default="",
        metavar="NODE",
        help="the node whose label is set, by the service account of this pod (default: none is)",
    )
    node.add_argument(
        "--address",
        default="/run/containerd/containerd.sock",
        metavar="PATH",
        help="containerd's, whose shims uninstall waits for (default: %(default)s)",
    )
    node.add_argument(
        "--pid",
        type=int,
        default=1,
        metavar="PID",
        help="a process in the node's namespaces (default: %(default)s)",
    )
    return top


def _add_places(command: argparse.ArgumentParser) -> None:
    """What install and uninstall have in common, by hand and from a container."""
    command.add_argument(
        "--prefix",
        default="/usr/local",
        metavar="DIR",
        help="where bin and lib are (default: %(default)s)",
    )
    command.add_argument(
        "--config",
        default="/etc/containerd/config.toml",
        metavar="FILE",
        help="containerd's configuration (default: %(default)s)",
    )
    command.add_argument(
        "--handler",
        default="pyrunc",
        metavar="NAME",
        help="of the RuntimeClass (default: %(default)s)",
    )
    command.add_argument(
        "--containerd",
        default="containerd",
        metavar="PROGRAM",
        help="containerd itself, which checks the configuration (default: %(default)s)",
    )
    command.add_argument(
        "--restart",
        nargs="?",
        const="systemctl restart containerd",
        default="",
        metavar="COMMAND",
        help="restart containerd if its configuration has changed, wait until CRI is back, "
        "and go back to the old configuration if it is not (COMMAND: %(const)s)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = parser().parse_args(argv)
    if options.command == "demo":
        from shim_runc_py.tools import demo

        return demo.run(options.runtime)
    if options.command == "check":
        from shim_runc_py.tools import check

        return check.run(options.engine)
    if options.command == "verify":
        try:
            from shim_runc_py.tools import verify
        except ModuleNotFoundError as error:
            wanted = "pip install 'containerd-shim-pyrunc-v2[cri]'"
            print(f"pyrunc verify: {error.name} is missing: {wanted}", file=sys.stderr)
            return 1
        return verify.run(options.handler, options.endpoint, options.image, options.output)
    if options.command == "node":
        from shim_runc_py.tools import node

        words = [f"--{name}={vars(options)[name]}" for name in _PLACES]
        words += [f"--restart={options.restart}"] if options.restart else []
        around = node.Node(options.pid, options.prefix)
        return node.run(options.action, words, around, options.name, options.address)
    if options.command in ("install", "uninstall"):
        return _install(options)
    raise AssertionError(options.command)


def _install(options: argparse.Namespace) -> int:
    from shim_runc_py.tools import install, registration
    from shim_runc_py.tools.containerd import Containerd
    from shim_runc_py.tools.handler import Handler, Refused

    prefix = Path(options.prefix).absolute()
    config = Path(options.config).absolute()
    daemon = Containerd(options.containerd)
    said: list[str] = []
    try:
        if options.command == "install":
            path = "" if str(prefix) in _IN_PATH else f"{prefix}/bin/{install.NAME}"
            handler = Handler(options.handler, path)
            said += install.install(prefix, native_launcher=not options.python_launcher)
            if not options.launcher_only:
                said += registration.register(config, handler, daemon, options.restart)
        else:
            # First the handler: a containerd with a handler needs its binary.
            said += registration.unregister(config, options.handler, daemon, options.restart)
            said += install.uninstall(prefix)
    except (install.InstallError, Refused) as error:
        if said:
            print("\n".join(said))
        print(f"pyrunc {options.command}: {error}", file=sys.stderr)
        return 1
    print("\n".join(said or ["nothing to remove"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
