"""`select="profitable"`: which dropouts are fused, and that its numbers for a GPU are the measured ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_sparsedrop.passes import profit

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.bench.record import Record
from torch_sparsedrop.bench.timing import GRAPH

MEASURED = Path(__file__).parent.parent / "examples" / "results" / "h200-small-layers.json"


def test_profitable_says_what_would_have_to_change() -> None:
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.5), nn.Linear(128, 64))
    (row,) = sparsedrop.explain(net, torch.randn(2048, 64)).to_dict()["sites"]
    assert row["decision"] == "left"
    assert "would drop whole rows" in row["reason"]
    assert "block=(128, 32)" in row["reason"]


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "p", "decision"),
    [
        (4096, 768, 768, 0.1, "left"),
        (8192, 768, 768, 0.1, "fused"),
        (8192, 3072, 768, 0.1, "fused"),
        (4096, 1024, 1024, 0.1, "left"),
        (4096, 1024, 1024, 0.5, "fused"),
        (8192, 4096, 16, 0.05, "fused"),  # LoRA's: for the elements, not for the multiply-adds
    ],
)
def test_profitable_on_a_gpu(rows, inputs, outputs, p, decision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(profit.PROFIT, "cpu", profit.PROFIT["cuda"])
    for net in (
        nn.Sequential(nn.Dropout(p), nn.Linear(inputs, outputs)),
        nn.Sequential(nn.Linear(outputs, inputs), nn.Dropout(p)),
    ):
        x = torch.zeros(rows, inputs if isinstance(net[-1], nn.Linear) else outputs)
        (row,) = sparsedrop.explain(net, x).to_dict()["sites"]
        assert row["decision"] == decision, row
        if decision == "left":
            assert (
                f"too small to gain: {rows * inputs} elements, {rows * inputs * outputs} multiply-adds" in row["reason"]
            )


def test_profitable_where_there_was_no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `F.dropout` would cost is not saved there: only the multiply-adds count."""
    monkeypatch.setitem(profit.PROFIT, "cpu", profit.PROFIT["cuda"])
    for outputs, decision in ((16, "left"), (4096, "fused")):
        net = nn.Sequential(nn.Linear(4096, outputs))
        report = sparsedrop.explain(net, torch.zeros(8192, 4096), options={"p": 0.1, "insert": "linear"})
        (row,) = report.to_dict()["sites"]
        assert row["decision"] == decision, row


def test_costs_on_a_gpu_are_the_measured_ones() -> None:
    """The line through the microseconds that masked layers take more than dense ones, its numbers rounded."""
    (run,) = Record.load_from(MEASURED)
    rows = [row for row in run.rows if row.phase == "forward+backward" + GRAPH]
    dense = {(row.subject, row.mask): row.seconds.median for row in rows if row.side == "dense"}
    found = [
        (row.p * math.prod(map(int, row.subject.split("×"))), 1e6 * (row.seconds.median - dense[row.subject, row.mask]))
        for row in rows
        if row.side == "sparsedrop"
    ]
    skipped, more = torch.tensor(found, dtype=torch.float64).unbind(1)
    line = torch.stack((torch.ones_like(skipped), -skipped), 1)
    cost, work = torch.linalg.lstsq(line, more[:, None]).solution.flatten().tolist()
    known = profit.PROFIT["cuda"]
    assert known.cost == pytest.approx(cost, rel=0.05)
    assert known.work == pytest.approx(work, rel=0.05)
    assert (line @ torch.tensor([known.cost, known.work], dtype=torch.float64) - more).abs().quantile(0.9) < 10
