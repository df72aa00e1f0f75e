"""A finished run as JSON: the machine, the settings and all rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from .. import providers
from ..cli import machine
from ..cli.errors import UsageError
from .rows import Row
from .settings import Settings

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """``environment`` holds the machine, the versions and the commit; ``load`` is the system's before the run."""

    settings: Settings
    environment: dict[str, Any]
    load: float | None
    rows: list[Row]

    @staticmethod
    def begin(settings: Settings) -> Record:
        """A record that awaits its rows."""
        serving = [row._asdict() for row in providers.serving()]
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        return Record(settings, machine.describe() | {"serving": serving}, load, [])

    @staticmethod
    def load_from(path: Path) -> Record:
        fields = json.loads(path.read_text())
        if fields.get("schema") != SCHEMA:
            raise UsageError(f"{path} has schema {fields.get('schema')}, expected {SCHEMA}")
        rows = [Row.from_json(row) for row in fields["rows"]]
        return Record(Settings.from_json(fields["settings"]), fields["environment"], fields["load"], rows)

    def save(self, path: Path) -> None:
        head = {
            "schema": SCHEMA,
            "environment": self.environment,
            "settings": self.settings.to_json(),
            "load": self.load,
        }
        # One row on a line: a file that can be read and compared.
        rows = ",\n".join("  " + json.dumps(_rounded(row.to_json()), ensure_ascii=False) for row in self.rows)
        path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n')

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
