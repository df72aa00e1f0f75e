"""Tiles that ``bench --tune`` found on this machine: a file in the user's cache, asked before the table."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..cache import cache_folder
from .tiles import Problem, Tile, choose


def path() -> Path:
    return cache_folder() / "tiles.json"


def tile_for(problem: Problem) -> Tile:
    """What was found for exactly this problem, or else what the table says."""
    if _asked is not None:
        _asked.append(problem)
        return _tried or choose(problem)
    return _stored().get(key(problem)) or choose(problem)


def key(p: Problem) -> str:
    sizes = "×".join(map(str, (p.size_a, p.size_b, p.size_t)))
    blocks = " ".join(str(block or "any") for block in (p.block_a, p.block_b, p.block_t))
    chip = f"{p.capability[0]}.{p.capability[1]} with {p.multiprocessors}"
    op = "reduction" if p.reduction else "product"
    return f"{op} {sizes}, blocks {blocks}, {str(p.dtype).removeprefix('torch.')} {p.precision}, {chip}"


def keep(found: Mapping[Problem, Tile]) -> None:
    """Adds to the file, for this process and later ones."""
    tiles = _stored() | {key(problem): tile for problem, tile in found.items()}
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(tile)}" for name, tile in tiles.items())
    text = f'{{\n "made_with": {json.dumps(_made_with())},\n "tiles": {{\n{lines}\n }}\n}}\n'
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)
    _stored.cache_clear()


def describe() -> dict[str, object]:
    return {"file": str(path()), "tiles": len(_stored())}


@contextlib.contextmanager
def trial(tile: Tile | None) -> Iterator[list[Problem]]:
    """Inside, new launches take ``tile``, or the table's where it is None; yields the problems that they ask for."""
    global _asked, _tried
    _asked, _tried = [], tile
    try:
        yield _asked
    finally:
        _asked = _tried = None


_asked: list[Problem] | None = None
_tried: Tile | None = None


@functools.cache
def _stored() -> dict[str, Tile]:
    file = path()
    try:
        found = json.loads(file.read_text())
        # Another compiler or kernel may want more than the chip has.
        if found["made_with"] != _made_with():
            return {}
        return {name: _checked(values) for name, values in found["tiles"].items()}
    except (FileNotFoundError, importlib.metadata.PackageNotFoundError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"torch_sparsedrop: {file} is ignored: {error!r}; `bench --tune` writes it anew", stacklevel=2)
        return {}


def _checked(values: list[int]) -> Tile:
    tile = Tile(*values)
    if not all(isinstance(value, int) and value > 0 for value in tile) or any(n & (n - 1) for n in tile[:4]):
        raise ValueError(f"not a tile: {values}")
    return tile


@functools.cache
def _made_with() -> str:
    """The compiler and the kernel's sources."""
    sources = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("kernel.py", "walk.py", "launch.py"))
    return f"triton {importlib.metadata.version('triton')}, kernel {hashlib.sha256(sources).hexdigest()[:16]}"
