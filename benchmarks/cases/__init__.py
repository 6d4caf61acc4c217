"""One module a case: `EVERY_LAUNCHER` says whether the launcher matters for it, `run` measures."""
