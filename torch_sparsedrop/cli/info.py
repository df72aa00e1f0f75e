"""``info``: what this machine has, and which kernels serve it."""

from __future__ import annotations

import argparse
import json
from textwrap import shorten
from typing import Any

from .. import providers
from . import machine
from .table import render


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("info", help="what this machine has and which kernels serve it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    found = collect()
    print(json.dumps(found, indent=2) if options.json else text(found))


def collect() -> dict[str, Any]:
    """Versions, hardware, and who serves what, ready for JSON."""
    return machine.describe() | {"serving": [row._asdict() for row in providers.serving()]}


def text(found: dict[str, Any]) -> str:
    cpu = found["cpu"]
    lines = [f"{name:<18}{value or 'none'}" for name, value in found["versions"].items()]
    lines.append(f"{'cpu':<18}{cpu['model']}, {cpu['cores']} cores, {cpu['threads']} threads, {cpu['torch_isa']}")
    for gpu in found["gpus"]:
        lines.append(
            f"{'gpu':<18}{gpu['name']}, compute capability {gpu['capability']}, {gpu['memory_gib']} GiB, "
            f"{gpu['multiprocessors']} multiprocessors"
        )
    if not found["gpus"]:
        lines.append(f"{'gpu':<18}none")
    tuned = found["tuned"]
    lines.append(f"{'tuned tiles':<18}{tuned['tiles'] or 'none'}, in {tuned['file']}")
    rows = [
        [row["device"], row["dtype"], row["provider"] or "–", shorten(row["note"], 160)] for row in found["serving"]
    ]
    return "\n".join([*lines, "", render(("device", "dtype", "served by", "note"), rows, left=4)])
