"""`explain`: what the pass does to a model in training, dropout by dropout, and what it does not."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._C._dynamo import eval_frame

from .as_found import as_found
from .backend import compile_apart
from .convert import Conversion, conversion_of, lost_conversion
from .options import Options
from .report import Report


def explain(model: nn.Module, *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any) -> Report:
    """What happens to each dropout of ``model`` in training, found by running it on ``args`` and ``kwargs``.

    A converted model is explained with its own options, another with ``options`` (those of `convert`). The model is
    left as it was, and so are the inputs. Prints as a table; ``.to_dict()`` has the same as data.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"explain takes a torch.nn.Module and its inputs, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)
    _refuse_lazy(model)
    conversion = conversion_of(model)
    if conversion is not None and options:
        raise ValueError("a converted model is explained with its own options; revert it to try others")
    chosen = conversion.options if conversion is not None else Options.parse(options or {})
    chosen.warn_unmatched(name for name, _ in model.named_modules())
    recorder = Recorder(chosen, model)
    with as_found(model, (args, kwargs)) as originals, torch.enable_grad(), _explained(conversion):
        with originals:
            flops, called = _measure(model, args, kwargs)
        with _isolated():
            run = _compile(model, recorder)
            try:
                run(*args, **kwargs)
            finally:
                recorder.forget()
            # As torch._dynamo.explain counts; a break is met again in every frame around it.
            breaks = max(len(recorder.graphs) - 1, len(torch._dynamo.utils.counters["graph_break"]))
    notes = []
    if lost_conversion(model):
        notes.append("this copy of a converted model lost its conversion; call convert on it")
    return Report.of(recorder.graphs, chosen, flops, called, breaks, conversion is not None, notes)


def _refuse_lazy(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if any(nn.parameter.is_lazy(entry) for entry in (*module._parameters.values(), *module._buffers.values())):
            raise ValueError(f"explain leaves models as they are: first call this one, to initialise {name!r}")


class Recorder:
    """A backend that decides and keeps what it decided, and runs the graph as it is."""

    runs_sparsedrop = True

    def __init__(self, options: Options, model: nn.Module) -> None:
        self.options = options
        self._model = weakref.ref(model)  # what is compiled may outlive the call
        self.compiled: set[types.CodeType] = set()
        self.graphs: list[tuple[list[Any], dict[fx.Node, Any], int]] = []

    def __call__(self, module: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        from .modules import module_trains, namer, tell_apart
        from .passes import decide, graphs, normalise

        model = self._model()
        name = namer(model)
        tell_apart(model, lambda name: name)
        self._remember()
        sites, linears, dead = [], {}, 0
        for graph in graphs(module.graph):
            normal = normalise(graph)
            sites += decide(normal, self.options, name=name, trains=module_trains)
            linears.update(normal.linears)
            dead += normal.dead
        self.graphs.append((sites, linears, dead))
        return module.forward

    def _remember(self) -> None:
        """Codes that nobody has compiled but `explain`."""
        from torch._dynamo.symbolic_convert import InstructionTranslator

        code = InstructionTranslator.current_tx().f_code
        if code not in self.compiled and not _compilations(code):
            self.compiled.add(code)

    def forget(self) -> None:
        """Its compilations would count towards Dynamo's limits in training."""
        for code in self.compiled:
            eval_frame.reset_code(code)


def _compilations(code: types.CodeType) -> int:
    """How many Dynamo has of a code object, whoever asked for them."""
    if hasattr(eval_frame, "_get_total_cache_entry_count"):  # before PyTorch 2.13 there was one list for all
        return int(eval_frame._get_total_cache_entry_count(code))
    return len(eval_frame._debug_get_cache_entry_list(code))


def _compile(model: nn.Module, recorder: Recorder) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    return compile_apart(run, recorder, dynamic=False)


def _measure(model: nn.Module, args: Any, kwargs: Any) -> tuple[int, Counter[str]]:
    """Dense FLOPs of a forward pass, and how often each `nn.Dropout` is called in it, without compiling."""
    from torch.utils.flop_counter import FlopCounterMode

    called: Counter[str] = Counter()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            handles.append(module.register_forward_pre_hook(functools.partial(_count, called, name)))
    try:
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _Whole()  # type: ignore[assignment]
        with torch.compiler.set_stance("force_eager"), counter:
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops(), called


class _Whole(contextlib.nullcontext[None]):
    """In the place of what follows modules: it hooks gradients, so that no forward could call `torch.autograd.grad`."""

    parents = frozenset({"Global"})


def _count(called: Counter[str], name: str, module: nn.Module, args: Any) -> None:
    if module.training:
        called[name] += 1


@contextlib.contextmanager
def _explained(conversion: Conversion | None) -> Iterator[None]:
    if conversion is None:
        yield
        return
    conversion.explained = True
    try:
        yield
    finally:
        conversion.explained = False


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Dynamo's counters and what it learnt about sizes, as before."""
    from torch._dynamo import pgo, utils

    counters = {key: Counter(value) for key, value in utils.counters.items()}
    learnt = copy.copy(pgo._CODE_STATE) if getattr(pgo, "_CODE_STATE", None) is not None else None
    utils.counters.clear()
    try:
        # Each module that has a frame of its own gets its rows.
        limits = {"recompile_limit": 10**6, "accumulated_recompile_limit": 10**6}
        with torch._dynamo.config.patch({"automatic_dynamic_shapes": False} | limits):
            yield
    finally:
        utils.counters.clear()
        utils.counters.update(counters)
        if learnt is not None:
            pgo._CODE_STATE = learnt
