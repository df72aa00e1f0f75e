"""``python -m torch_sparsedrop info``."""

from __future__ import annotations

import json

import pytest
import torch

import torch_sparsedrop
from torch_sparsedrop import providers
from torch_sparsedrop.__main__ import main
from torch_sparsedrop.providers.status import Status, table


def test_json_names_versions_and_who_serves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["torch_sparsedrop"] == torch_sparsedrop.__version__
    served = {row["dtype"]: row["provider"] for row in found["serving"] if row["device"] == "cpu"}
    assert set(served) == {"float32", "float64", "bfloat16", "float16"}
    assert None not in served.values()
    assert len(found["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_the_table_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for row in providers.serving():
        assert any(all(part in line for part in (row.device, row.dtype, row.note)) for line in lines)


class _Provider:
    def __init__(self, name: str, status: Status | None) -> None:
        self.NAME = name
        self._status = status

    def status(self, device: torch.device, dtype: torch.dtype) -> Status | None:
        return self._status


def test_the_first_that_serves_is_named_and_why_better_ones_do_not() -> None:
    other = _Provider("elsewhere", None)
    broken = _Provider("fast", Status(False, "not built: no compiler"))
    good = _Provider("good", Status(True, "AVX2"))
    last = _Provider("last", Status(True, "slow"))
    row = table([other, broken, good, last])[0]
    assert row == ("cpu", "float32", "good", "AVX2; not fast: not built: no compiler")


def test_nobody_serves() -> None:
    row = table([_Provider("fast", Status(False, "not built"))])[0]
    assert row.provider is None
    assert row.note == "not fast: not built"


def test_a_machine_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    last = providers.serving()[-1]
    assert (last.device, last.provider) == ("cuda", None)
    assert "CUDA" in last.note
