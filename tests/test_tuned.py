"""Tiles that were found on this machine: kept, found again, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("runs in Triton's interpreter", allow_module_level=True)

from torch_sparsedrop.bench import tune
from torch_sparsedrop.bench.settings import Settings, Shape
from torch_sparsedrop.bench.workloads.gemm import PRODUCTS
from torch_sparsedrop.bench.workloads.operands import Masks, Operands
from torch_sparsedrop.ops.schema import REVISION
from torch_sparsedrop.providers.cuda import matmul
from torch_sparsedrop.providers.triton import tuned
from torch_sparsedrop.providers.triton.tiles import Problem, Tile, choose

PROBLEM = Problem(torch.bfloat16, "tf32", (9, 0), 132, 512, 512, 512, 128, None, 128, False)
OTHER = PROBLEM._replace(size_a=1024)
TILE = Tile(64, 64, 32, 4, 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SPARSEDROP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned._stored.cache_clear()
    matmul.forget()
    yield
    tuned._stored.cache_clear()
    matmul.forget()


def test_what_was_kept_is_found_by_a_later_process() -> None:
    assert tuned.tile_for(PROBLEM) == choose(PROBLEM)
    tuned.keep({PROBLEM: TILE})
    tuned.keep({OTHER: TILE._replace(a=128)})
    tuned._stored.cache_clear()  # as another process begins
    assert tuned.tile_for(PROBLEM) == TILE != choose(PROBLEM)
    assert tuned.tile_for(OTHER).a == 128
    assert tuned.tile_for(PROBLEM._replace(reduction=True)) == choose(PROBLEM._replace(reduction=True))
    assert tuned.describe() == {"file": str(tuned.path()), "tiles": 2}


@pytest.mark.parametrize(
    "tiles", ["", "{}", "[]", '{"x": [64]}', '{"x": [48, 64, 32, 4, 2]}', '{"x": [64, 64, 0, 4, 2]}']
)
def test_a_broken_file_is_ignored_with_a_warning(tiles: str) -> None:
    tuned.path().parent.mkdir(parents=True)
    whole = f'{{"made_with": "{tuned._made_with()}", "tiles": {tiles}}}'
    tuned.path().write_text(tiles if len(tiles) < 5 else whole)
    with pytest.warns(UserWarning, match="is ignored"):
        assert tuned.tile_for(PROBLEM) == choose(PROBLEM)
    tuned.keep({PROBLEM: TILE})
    assert tuned.tile_for(PROBLEM) == TILE


def test_another_compilers_tiles_are_not_taken() -> None:
    tuned.keep({PROBLEM: TILE})
    found = json.loads(tuned.path().read_text())
    tuned.path().write_text(json.dumps(found | {"made_with": "triton 1.0"}))
    tuned._stored.cache_clear()
    assert tuned.tile_for(PROBLEM) == choose(PROBLEM)


class Clock:
    """A timer by which a tile's time is what a function says."""

    def __init__(self, seconds: Callable[[Tile], float]) -> None:
        self.of = seconds

    def seconds(self, call: Callable[[], object], calls: int, clock: object) -> float:
        call()
        (launch,) = matmul._known.values()
        return self.of(launch.tile)


@pytest.mark.parametrize("phase", ["forward", "dw"])
def test_the_fastest_tile_is_found_and_then_used(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "ROUNDS", 1)
    at = Settings(("gemm",), (0.5,), ("float32",), (32, 32), 1, 1, 1, "cpu")
    on, masks = Operands.make(Shape(64, 64, 64), "float32", "cpu"), Masks.draw(at, Shape(64, 64, 64), "in", 0.5)
    expected = PRODUCTS[phase](on, masks)

    def call() -> torch.Tensor:
        if phase == "dw":
            return matmul.weight_grad(on.grad, on.x, *masks.arguments(), REVISION)
        return matmul.linear(on.x, on.weight, None, *masks.arguments(), REVISION)

    call()
    (launch,) = matmul._known.values()
    table = launch.tile
    wanted = next(tile for tile in tune.candidates(launch.problem, table) if tile != table)
    assert tune.best(call, Clock(lambda tile: 1.0)) == {}, "no better than the table"
    found = tune.best(call, Clock(lambda tile: 0.5 if tile == wanted else 1.0))
    assert found == {launch.problem: wanted}
    tuned.keep(found)
    torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    assert [launch.tile for launch in matmul._known.values()] == [wanted]


def test_where_another_kernel_serves_there_is_nothing_to_tune() -> None:
    assert tune.best(lambda: None, Clock(lambda tile: 1.0)) == {}


def test_candidates_fit_the_blocks_and_the_chip() -> None:
    for block in (32, 48, 128):
        problem = PROBLEM._replace(block_a=block, block_t=block)
        found = list(tune.candidates(problem, choose(problem)))
        assert found
        assert all(block % tile.a == 0 and block % tile.t == 0 for tile in found)


def test_tiles_need_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.keep({PROBLEM: TILE})
    tuned._stored.cache_clear()
    tuned._made_with.cache_clear()
    monkeypatch.setattr(tuned.importlib.metadata, "version", _missing)
    assert tuned.describe()["tiles"] == 0
    tuned._made_with.cache_clear()


def _missing(name: str) -> str:
    raise tuned.importlib.metadata.PackageNotFoundError(name)


def test_the_variable_moves_the_tiles_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEDROP_CACHE", str(tmp_path / "elsewhere"))
    assert tuned.path() == tmp_path / "elsewhere" / "tiles.json"
