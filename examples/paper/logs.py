"""One file of JSON lines per run: what was asked, then every evaluation, then how it ended. Beside it, a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from tasks import Block, UserError

from torch_sparsedrop.cli import machine

Record = dict[str, Any]


def name_of(method: str, block: Block | None, p: float, seed: int) -> str:
    size = f"-{block[0]}x{block[1]}" if block else ""
    return f"{method}{size}-p{p:g}-seed{seed}"


def read(path: Path) -> list[Record]:
    """The records of a log; a last line that was cut short does not count."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Log:
    """The log of one run, which may have been begun before, by the same configuration only."""

    def __init__(self, path: Path, config: Record) -> None:
        self.path = path
        self.checkpoint = path.with_suffix(".pt")
        self.config = json.loads(json.dumps(config))
        self.records = read(path) if path.exists() else []
        if self.records:
            self._check(self.records[0].get("config"))

    def _check(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise UserError(f"{self.path} is no log of a run; give another --out")
        keys = [key for key in {**found, **self.config} if found.get(key) != self.config.get(key)]
        if keys:
            changes = ", ".join(f"{key} was {found.get(key)!r}, now {self.config.get(key)!r}" for key in keys)
            raise UserError(f"{self.path} is of another configuration: {changes}. Give another --out")

    @property
    def end(self) -> Record | None:
        """The last record of a finished run."""
        return self.records[-1] if self.records and "end" in self.records[-1] else None

    def begin(self, device: torch.device) -> Record | None:
        """Open for writing; the state to go on from, where an earlier process left one."""
        if self.end:
            raise UserError(f"{self.path} is finished and is not overwritten")
        state = torch.load(self.checkpoint, map_location=device) if self.records and self.checkpoint.exists() else None
        kept = self.records[: state["records"]] if state else [{"config": self.config, "machine": machine.describe()}]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.records = []
        self.path.write_text("")
        for record in kept:
            self.write(record)
        return state

    def write(self, record: Record) -> None:
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        if "end" in record:
            self.checkpoint.unlink(missing_ok=True)

    def save(self, state: Record) -> None:
        """A checkpoint that fits the records so far. Written whole or not at all."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state | {"records": len(self.records)}, partial)
        os.replace(partial, self.checkpoint)
