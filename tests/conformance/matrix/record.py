"""Write the answers of our shim that are not in answers.toml yet; somebody has to read them.

python -m tests.conformance.matrix.record [--again STATE ...]

With `--again` the answers of these states are written anew (`all`: of all).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.conformance.matrix import calls

FILE = Path(__file__).with_name("answers.toml")
HEAD = """# What our shim answers: a table for each state, a row for each call (see __init__.py).
# The stock shim answers the same, unless calls.py says why not.
"""


def text(answers: dict[str, dict[str, str]]) -> str:
    """The file, in the order of calls.py."""
    parts = [HEAD]
    for state in calls.STATES:
        parts.append(f"\n[{json.dumps(state)}]\n")
        for call in calls.rows(state):
            for name in (call.name, f"{call.name} [unified]"):
                if name in answers.get(state, {}):
                    answer = json.dumps(answers[state][name], ensure_ascii=False)
                    parts.append(f"{json.dumps(name)} = {answer}\n")
    return "".join(parts)


def main() -> int:
    again = sys.argv[2:] if sys.argv[1:2] == ["--again"] else []
    answers = tomllib.loads(FILE.read_text())
    with tempfile.NamedTemporaryFile() as found:
        words = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "tests.parity"]
        words += ["--found", found.name, "-k", "pyrunc", "tests/conformance/test_matrix.py"]
        subprocess.run(words, check=False)
        rows = json.loads(Path(found.name).read_text())["rows"]
    for state, call, _, answer, _ in rows:
        table = answers.setdefault(state, {})
        if call not in table or state in again or "all" in again:
            table[call] = answer
    FILE.write_text(text(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
