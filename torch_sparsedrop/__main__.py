"""``python -m torch_sparsedrop info | bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .bench import command as bench
from .cli import info
from .cli.errors import UsageError


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        "python -m torch_sparsedrop",
        description="Structured block dropout fused with linear layers: what serves it here, and what it gains.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="info | bench")
    for command in (info, bench):
        command.add_parser(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except UsageError as error:
        print(f"torch_sparsedrop {options.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
