"""Which names containers, execs and namespaces may have: containerd's rule (CONTRACT 3).

Letters and digits, in groups joined by single `.`, `_` or `-`, at most 76 characters. Such a name
can stand in a path: it has no slash and never begins with a dot (SECURITY 16, 17). Pure.
"""

from __future__ import annotations

from shim_runc_py.errors import InvalidArgument

LONGEST = 76


def check(what: str, name: str) -> str:
    """`name` if it follows the rule; raises InvalidArgument that says `what` it was for."""
    if not name:
        raise InvalidArgument(f"{what} must not be empty")
    if len(name) > LONGEST:
        raise InvalidArgument(f"{what} {name[:LONGEST]!r}... is longer than {LONGEST} characters")
    between = True  # at the beginning and after a separator only letters and digits may come
    for char in name:
        if char.isascii() and char.isalnum():
            between = False
        elif char in "._-" and not between:
            between = True
        else:
            between = True
            break
    if between:
        raise InvalidArgument(
            f"{what} {name!r} must be letters and digits, in groups joined by one of . _ -"
        )
    return name
