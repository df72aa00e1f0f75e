"""``--tune``: the best tiles of the Triton kernels for the shapes asked for, kept in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

from .. import providers
from ..cli.errors import UsageError
from .settings import PRESETS, SIDES, Settings, Shape
from .timing import Quartiles, Side, Timer, Turn, interleave
from .workloads.gemm import PRODUCTS
from .workloads.operands import Masks, Operands

ROUNDS = 7
WORTH = 0.98
"""Of the table's time: what another tile must stay below to replace it."""


def run(settings: Settings, timer: Timer, progress: Callable[..., Any]) -> str:
    """Tunes every product of the settings; a line on what came of it."""
    index = torch.device(settings.device).index or 0
    reason = providers.triton.why_not(index)
    if reason is not None:
        raise UsageError(f"--tune is for the Triton kernels, which do not serve {settings.device}: {reason}")
    from ..providers.triton import tuned

    shapes = settings.shapes_or(*PRESETS["cube"])
    cases = list(product(settings.dtypes, shapes, settings.masks_or(*SIDES), PRODUCTS))
    found: dict[Any, Any] = {}
    with torch.inference_mode(), progress(cases, unit=" products", leave=False) as bar:
        for dtype, shape, mask, phase in bar:
            bar.set_description(f"tune {phase} {shape} {dtype} {mask}")
            found.update(best(_call(settings, dtype, shape, mask, phase), timer))
            tuned.keep(found)
    return f"{len(found)} of {len(cases)} products run faster with other tiles than the table's; kept in {tuned.path()}"


def best(call: Callable[[], object], timer: Timer) -> dict[Any, Any]:
    """The problem that ``call`` poses and a tile that is faster there than the table's, or nothing: also where the
    Hopper kernel serves, which has no tiles to choose."""
    from ..providers.cuda import matmul
    from ..providers.triton import tuned
    from ..providers.triton.tiles import Tile, choose

    def ready(tile: Tile | None) -> list[Any]:
        matmul.forget()
        with tuned.trial(tile) as asked:
            call()
        return asked

    asked = ready(None)
    if not asked:
        return {}
    problem = asked[-1]
    table = choose(problem)
    sides = {}
    for tile in dict.fromkeys((table, *candidates(problem, table))):
        try:
            ready(tile)
        except Exception:  # more registers or shared memory than there is: Triton has an error for each
            continue

        def prepare(turn: int, tile: Tile = tile) -> Turn:
            ready(tile)
            return Turn(call)

        sides[tile] = Side(str(tuple(tile)), prepare)
    samples = interleave(list(sides.values()), timer, rounds=ROUNDS, warmup=1)
    matmul.forget()
    median = {tile: Quartiles.of([s.seconds for s in samples[side]]).median for tile, side in sides.items()}
    fastest = min(median, key=lambda tile: median[tile])
    return {problem: fastest} if median[fastest] < WORTH * median[table] else {}


def candidates(problem: Any, table: Any) -> Iterator[Any]:
    """Tiles that fit the problem's mask blocks, around the usual sizes."""
    from ..providers.triton.tiles import Tile, fit, power_of_2

    sizes = ((64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128))
    step = max(16, 64 // (1 + (problem.dtype == torch.float32)))
    for (a, b), t, stages in product(sizes, (step, 2 * step), (3, 4)):
        a, b = fit(a, problem.block_a), fit(min(b, max(16, power_of_2(problem.size_b))), problem.block_b)
        tile = Tile(a, b, fit(t, problem.block_t), 8 if a * b > 128 * 128 else 4, stages, table.group, table.parts)
        if (a * b) * 4 <= 2**17 and stages * (a + b) * tile.t * problem.dtype.itemsize <= 220 * 1024:
            yield tile


def _call(settings: Settings, dtype: str, shape: Shape, mask: str, phase: str) -> Callable[[], object]:
    on = Operands.make(shape, dtype, settings.device)
    torch.manual_seed(0)
    masks = Masks.draw(settings, shape, mask, settings.middle_p)
    return lambda: PRODUCTS[phase](on, masks)
