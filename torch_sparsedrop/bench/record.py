"""Runs as JSON: for each the machine, the settings and all rows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from .. import providers
from ..cli import machine
from ..cli.errors import UsageError
from .rows import Row
from .settings import Settings

SCHEMA = 2


@dataclass(frozen=True)
class Record:
    """One run of the command.

    ``environment`` holds the machine, the versions and the commit; ``load`` is the system's before the run; ``left``
    names what was asked for and not measured, and why.
    """

    settings: Settings
    environment: dict[str, Any]
    load: float | None
    rows: list[Row]
    left: list[str] = field(default_factory=list)

    @staticmethod
    def begin(settings: Settings) -> Record:
        """A record that awaits its rows."""
        serving = [row._asdict() for row in providers.serving()]
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        return Record(settings, machine.describe() | {"serving": serving}, load, [])

    @staticmethod
    def load_from(path: Path) -> list[Record]:
        """The runs in a file."""
        fields = json.loads(path.read_text())
        if fields.get("schema") not in (1, SCHEMA):
            raise UsageError(f"{path} has schema {fields.get('schema')}, expected {SCHEMA}")
        # Schema 1 held a single run.
        return [Record._of(run) for run in fields.get("runs", [fields])]

    @staticmethod
    def _of(run: dict[str, Any]) -> Record:
        rows = [Row.from_json(row) for row in run["rows"]]
        settings = Settings.from_json(run["settings"])
        return Record(settings, run["environment"], run["load"], rows, run.get("left", []))

    def save(self, path: Path, before: Sequence[Record] = ()) -> None:
        """Writes the file, with the runs ``before`` this one."""
        runs = ",\n".join(run._to_text() for run in (*before, self))
        path.write_text(f'{{\n "schema": {SCHEMA},\n "runs": [\n{runs}\n ]\n}}\n')

    def _to_text(self) -> str:
        head = {
            "environment": self.environment,
            "settings": self.settings.to_json(),
            "load": self.load,
            "left": self.left,
        }
        # One row on a line: a file that can be read and compared.
        rows = ",\n".join("  " + json.dumps(_rounded(row.to_json()), ensure_ascii=False) for row in self.rows)
        return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}'

    def provider(self) -> str:
        """Who serves SparseDrop on the device and the dtypes measured."""
        served = self.environment["serving"]
        device = self.settings.device + ":0" * (self.settings.device == "cuda")
        mine = [row for row in served if row["device"] == device and row["dtype"] in self.settings.dtypes]
        return ", ".join(dict.fromkeys(f"{row['provider']} ({shorten(row['note'], 100)})" for row in mine))

    def machine(self) -> str:
        """The machine and the versions in one line."""
        return machine.line(self.settings.device, self.settings.threads, self.environment)


def _rounded(value: Any) -> Any:
    """Four digits are more than a timing has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value
