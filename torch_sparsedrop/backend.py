"""The `torch.compile` backend: the pass, and then another backend."""

from __future__ import annotations

import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from .options import Options


def sparsedrop(
    module: fx.GraphModule,
    example_inputs: list[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """``torch.compile(model, backend="sparsedrop", options={…})``; the options are those of `convert`."""
    settings = dict(options or {})
    if mode is not None:
        if settings.get("mode", mode) != mode:
            raise ValueError(f"mode is given twice: {mode!r} and options={{'mode': {settings['mode']!r}}}")
        settings["mode"] = mode
    from .modules import running_model

    parsed, model = Options.parse(settings), running_model()
    if model is not None:
        parsed.warn_unmatched(name for name, _ in model.named_modules())
    return compile_with(parsed, module, example_inputs, model)


class Backend:
    """The backend for one model, whose modules' names it knows."""

    runs_sparsedrop = True
    __name__ = "sparsedrop"

    def __init__(self, options: Options, model: nn.Module) -> None:
        self.options = options
        self._model = weakref.ref(model)

    def __call__(self, module: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        return compile_with(self.options, module, example_inputs, self._model())


def compile_with(
    options: Options, module: fx.GraphModule, example_inputs: list[Any], model: nn.Module | None = None
) -> Callable[..., Any]:
    from .modules import module_trains, namer, tell_apart
    from .passes import SparseDropPass

    for name, given in _other_conversions(model, options):
        _warn_of_other_options(name, given)
    if options.patterns():
        tell_apart(model, options.choices_for)
    run = SparseDropPass(options, name=namer(model), trains=module_trains, together=_seeds_each_call(options))
    run(module.graph)
    if options.inner == "eager" and _recomputes(module):
        options = replace(options, inner="aot_eager")
    return _inner(options)(module, example_inputs)


def _other_conversions(model: nn.Module | None, options: Options) -> Iterator[tuple[str, str]]:
    """Modules in a graph of ours that were converted with other options, and these: the graph's hold."""
    from .convert import conversion_of

    ours = options.decisions()
    for name, module in () if model is None else model.named_modules():
        conversion = conversion_of(module)
        theirs = ours if conversion is None else conversion.options.decisions()
        if theirs != ours:
            yield name, ", ".join(key for key in theirs if theirs[key] != ours[key])


@functools.cache
def _warn_of_other_options(name: str, which: str) -> None:
    what = f"module {name!r} was" if name else "the model was"
    warnings.warn(
        f"torch_sparsedrop: {what} converted with another {which} than the compile that it is part of now, whose "
        'options hold for all of it; give convert\'s to torch.compile(…, backend="sparsedrop", options={…}) too, or to '
        "convert of the whole",
        stacklevel=2,
    )


def compile_apart(function: Callable[..., Any], backend: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`torch.compile` that shares no limit of recompilations with other calls of it, from PyTorch 2.13 on."""
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        settings["isolate_recompiles"] = True
    compiled: Callable[..., Any] = torch.compile(function, backend=backend, **settings)
    return compiled


def _seeds_each_call(options: Options) -> bool:
    """Whether random calls are seeded one by one, so that a seed promises no order of theirs: Inductor's way."""
    from torch._inductor import config

    return options.inner == "inductor" and not inductor_config(options).get("fallback_random", config.fallback_random)


def _recomputes(module: fx.GraphModule) -> bool:
    """Whether a graph holds activation checkpoints.

    PyTorch's "eager" backend runs them without restoring the random state: every dropout in them, PyTorch's own too,
    would draw another mask in the backward.
    """
    found = any("activation_checkpoint" in str(node.target) for node in module.graph.nodes)
    if found:
        _say_once()
    return found


@functools.cache
def _say_once() -> None:
    warnings.warn(
        'torch_sparsedrop: inner="eager" draws other masks when it recomputes activation checkpoints; '
        'graphs with checkpoints run with inner="aot_eager" instead',
        stacklevel=2,
    )


def _inner(options: Options) -> Callable[..., Any]:
    from torch._dynamo.backends.registry import lookup_backend

    if options.inner != "inductor":
        return lookup_backend(options.inner)

    def inductor(module: fx.GraphModule, example_inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(module, example_inputs, config_patches=inductor_config(options))

    return inductor


def inductor_config(options: Options) -> dict[str, Any]:
    """``mode`` and ``inductor`` as one set of config values."""
    if options.mode in (None, "default") and not options.inductor:
        return {}  # and Inductor need not be loaded
    from torch._inductor import config, list_mode_options, list_options

    from .options import nearest

    modes = list_mode_options()
    if options.mode not in (None, "default") and options.mode not in modes:
        raise ValueError(f"unknown mode {options.mode!r}{nearest(str(options.mode), modes)}; modes: {', '.join(modes)}")
    patches = dict(list_mode_options(options.mode)) if options.mode not in (None, "default") else {}
    known = config.get_config_copy()
    for key, value in options.inductor.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ValueError(f"unknown Inductor config {key!r}{nearest(name, list_options())}")
        patches[name] = value
    return patches


def is_ours(backend: Any) -> bool:
    """Whether a compile's backend is this one, however wrapped."""
    while backend is not None:
        if backend is sparsedrop or getattr(backend, "runs_sparsedrop", False):
            return True
        backend = getattr(backend, "compiler_fn", None) or getattr(backend, "_torchdynamo_orig_backend", None)
    return False
