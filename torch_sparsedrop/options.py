"""The options of `convert`, `explain` and the backend: one set of names, checked in one place."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from .masks import KINDS, Block, check_p
from .ops.checks import check_block

SELECTIONS = ("profitable", "all")
INSERTIONS = (None, "linear")

Patterns = tuple[str, ...]
PerPattern = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Options:
    """Checked options. Overrides are kept as (pattern, value) pairs; the pattern "*" holds a value for all."""

    inner: str | Callable[..., Any] = "inductor"
    insert: str | None = None
    p: PerPattern = ()
    block: PerPattern = (("*", (128, 128)),)
    kind: str = "bernoulli"
    include: Patterns = ()
    exclude: Patterns = ()
    select: str = "profitable"
    mode: str | None = None
    inductor: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(settings: Mapping[str, Any]) -> Options:
        """Options from what a user wrote; a `ValueError` or `TypeError` says what is wrong with it."""
        names = [f.name for f in fields(Options)]
        for key in settings:
            if key not in names:
                raise ValueError(f"unknown option {key!r}{nearest(key, names)}; the options are {', '.join(names)}")
        given = dict(settings)
        parsed: dict[str, Any] = {}
        for name, choices in (("kind", KINDS), ("select", SELECTIONS), ("insert", INSERTIONS)):
            if name in given:
                parsed[name] = _one_of(name, given.pop(name), choices)
        for name in ("include", "exclude"):
            parsed[name] = _patterns(name, given.pop(name, ()))
        parsed["p"] = _per_pattern("p", given.pop("p", None), _probability)
        block = given.pop("block", None)
        parsed["block"] = _per_pattern("block", (128, 128) if block is None else block, check_block)
        if not any(pattern == "*" for pattern, _ in parsed["block"]):
            parsed["block"] = (("*", (128, 128)), *parsed["block"])
        inductor = given.pop("inductor", None) or {}
        if not isinstance(inductor, Mapping):
            raise TypeError(f"inductor must be a dict of Inductor's config values, got {inductor!r}")
        if not all(isinstance(key, str) for key in inductor):
            raise TypeError(f"inductor must have names of Inductor's config values as keys, got {inductor!r}")
        options = Options(**parsed, inductor=dict(inductor), **given)
        options._check()
        return options

    def _check(self) -> None:
        if not isinstance(self.inner, str) and not callable(self.inner):
            raise TypeError(f"inner must be a backend's name or a callable, got {self.inner!r}")
        if self.inner == "sparsedrop":
            raise ValueError('inner must be another backend: "inductor", "aot_eager", "eager", …')
        if isinstance(self.inner, str):
            backends = torch._dynamo.list_backends(exclude_tags=None)
            if self.inner not in backends:
                hint = nearest(self.inner, backends)
                raise ValueError(f"inner must be a backend of torch.compile, got {self.inner!r}{hint}")
        if self.mode is not None and not isinstance(self.mode, str):
            raise TypeError(f"mode must be one of torch.compile's modes, got {self.mode!r}")
        if self.inner != "inductor" and (self.mode not in (None, "default") or self.inductor):
            raise ValueError(f'mode= and inductor= need inner="inductor", got inner={self.inner!r}')
        if self.inner == "inductor":
            from .backend import inductor_config

            inductor_config(self)
        if self.insert is not None and not self.p:
            raise ValueError('insert="linear" needs p=, the probability of the inserted dropout')
        both = set(self.include) & set(self.exclude)
        if both:
            raise ValueError(f"include and exclude both name {sorted(both)}")

    def decisions(self) -> dict[str, Any]:
        """What decides about dropouts; the rest is how graphs are compiled."""
        names = ("insert", "p", "block", "kind", "include", "exclude", "select")
        return {name: getattr(self, name) for name in names}

    def wants(self, module: str) -> bool:
        included = not self.include or any(matches(module, pattern) for pattern in self.include)
        return included and not any(matches(module, pattern) for pattern in self.exclude)

    def p_for(self, module: str) -> float | None:
        found: float | None = _lookup("p", self.p, module)
        return found

    def block_for(self, module: str) -> tuple[int, int]:
        found: tuple[int, int] = _lookup("block", self.block, module)
        return found

    def choices_for(self, module: str) -> object:
        """All that depends on a module's name, for comparison."""
        try:
            return self.wants(module), self.p_for(module), self.block_for(module)
        except ValueError:  # conflicting overrides, which matter only where there is dropout
            return module

    def patterns(self) -> list[str]:
        """Every pattern the user wrote."""
        overrides = [pattern for pairs in (self.p, self.block) for pattern, _ in pairs if pattern != "*"]
        return [*self.include, *self.exclude, *overrides]

    def warn_unmatched(self, modules: Iterable[str], stacklevel: int = 3) -> None:
        """A warning for each pattern that names none of the modules."""
        names = [name for name in modules if name]
        for pattern in self.patterns():
            if not any(matches(name, pattern) for name in names):
                hint = nearest(pattern, names)
                warnings.warn(
                    f"torch_sparsedrop: no module matches the pattern {pattern!r}{hint}", stacklevel=stacklevel
                )


def matches(module: str, pattern: str) -> bool:
    """Whether a pattern names a module, or one that contains it. Patterns are those of a shell."""
    parts = module.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def nearest(name: object, names: Iterable[str]) -> str:
    """ ", did you mean …?" with the names most like ``name``, or nothing."""
    close = difflib.get_close_matches(str(name), list(dict.fromkeys(names)), n=3, cutoff=0.4)
    return f", did you mean {' or '.join(map(repr, close))}?" if close else ""


def _lookup(name: str, pairs: PerPattern, module: str) -> Any:
    found = {pattern: value for pattern, value in pairs if pattern != "*" and matches(module, pattern)}
    if len(set(found.values())) > 1:
        raise ValueError(f"conflicting overrides of {name}= for module {module!r}: {found}; let one pattern match")
    return next(iter(found.values()), dict(pairs).get("*"))


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        hint = nearest(value, [c for c in choices if c]) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{hint}")
    return value


def _patterns(name: str, value: Any) -> Patterns:
    patterns = (value,) if isinstance(value, str) else () if value is None else value
    if not isinstance(patterns, Iterable):
        raise TypeError(f"{name} must be patterns of module names, got {value!r}")
    found = tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in found):
        raise TypeError(f"{name} must be patterns of module names, got {value!r}")
    return found


def _per_pattern(name: str, value: Any, check: Callable[[Any, str], Any]) -> PerPattern:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        return (("*", check(value, name)),)
    for pattern in value:
        if not isinstance(pattern, str):
            raise TypeError(f"{name} must map patterns of module names to values, got the key {pattern!r}")
    return tuple((pattern, check(item, f"{name}[{pattern!r}]")) for pattern, item in value.items())


def _probability(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)):
        got = "a tensor" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"{name} must be a float in [0, 1], got {got}")
    check_p(value, name)
    return float(value)


__all__ = ["Block", "Options", "matches", "nearest"]
