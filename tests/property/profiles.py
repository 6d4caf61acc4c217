"""How hypothesis searches: the same examples on every run, unless somebody goes exploring.

`PYRUNC_EXPLORE=20 pytest tests/property` tries twenty times as many examples, and new ones each
time. A failure that it finds becomes an `@example`, or a test of its own.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_FACTOR = int(os.environ.get("PYRUNC_EXPLORE", "0"))


def examples(count: int, **others: object) -> settings:
    """Settings for a test that is content with `count` examples."""
    return settings(
        max_examples=count * max(1, _FACTOR),
        derandomize=not _FACTOR,
        database=None,
        deadline=None,  # a busy machine is no failure
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
        **others,  # type: ignore[arg-type]
    )
