"""The command line of a shim, read as Go's flag package reads it (CONTRACT 2.1).

`-x v`, `-x=v`, `--x v` and `--x=v` are the same; a boolean takes a value only after `=`; the first
word that is no flag is the action and ends the flags. Pure; in the launcher's import budget.
"""

RUNTIME_NAME = "io.containerd.pyrunc.v2"

_TEXTS = {
    "namespace": "namespace that owns the shim",
    "address": "grpc address back to main containerd",
    "publish-binary": "path to publish binary (ignored)",
    "id": "id of the task",
    "bundle": "path to the bundle if not workdir",
    "socket": "socket path to serve on, for a shim started by hand",
    "debug-socket": "accepted and ignored",
}
_SWITCHES = {
    "debug": "enable debug output in logs",
    "v": "show the shim version and exit",
    "version": "show the shim version and exit",
    "info": "get the runtime info, with the options on standard input, and exit",
}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


class FlagError(Exception):
    """A command line that cannot be understood; exit status 2."""


class Flags:
    """The values, "" or False where not given; `action` is start, delete or ""."""

    def __init__(self) -> None:
        self.namespace = ""
        self.address = ""
        self.publish_binary = ""
        self.id = ""
        self.bundle = ""
        self.socket = ""
        self.debug_socket = ""
        self.debug = False
        self.version = False
        self.info = False
        self.action = ""


def parse(words: list[str]) -> Flags:
    """Raises FlagError with the words of Go."""
    flags = Flags()
    rest = list(words)
    while rest:
        word = rest[0]
        if len(word) < 2 or word[0] != "-":
            break
        del rest[0]
        if word == "--":
            break
        name, equals, value = word[2 if word[1] == "-" else 1 :].partition("=")
        if not name or name[0] in "-=":
            raise FlagError(f"bad flag syntax: {word}")
        if name in _SWITCHES:
            if equals and value not in _TRUE + _FALSE:
                raise FlagError(f'invalid boolean value "{value}" for -{name}: parse error')
            on = value in _TRUE if equals else True
            setattr(flags, "version" if name == "v" else name, on)
        elif name in _TEXTS:
            if not equals:
                if not rest:
                    raise FlagError(f"flag needs an argument: -{name}")
                value = rest.pop(0)
            setattr(flags, name.replace("-", "_"), value)
        else:
            raise FlagError(f"flag provided but not defined: -{name}")
    flags.action = rest[0] if rest else ""
    return flags


def usage(program: str) -> str:
    """What is shown after a FlagError."""
    lines = [f"Usage of {program}:"]
    texts = {name: (text, " string") for name, text in _TEXTS.items()}
    switches = {name: (text, "") for name, text in _SWITCHES.items()}
    for name, (text, kind) in sorted((texts | switches).items()):
        lines.append(f"  -{name}{kind}")
        lines.append(f"    \t{text}")
    return "\n".join(lines) + "\n"
