"""Lists the benchmarks: name and first line of the docstring."""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def main() -> None:
    """Print one line a benchmark."""
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        lines = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()
        sys.stdout.write(f"{file.stem:16} {lines[0] if lines else ''}\n")


if __name__ == "__main__":
    main()
