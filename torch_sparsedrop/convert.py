"""`convert`: the backend applied to a model in place, while it trains.

The model's class becomes a subclass of its own, of the same name, whose ``forward`` runs compiled in training and is
the original one otherwise. Parameters, buffers and attributes stay where they are.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
import types
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from .backend import Backend, compile_apart, is_ours
from .masks import Block, Kind
from .options import Options

_ATTRIBUTE = "_sparsedrop"


def convert(
    model: nn.Module,
    *,
    inner: str | Callable[..., Any] = "inductor",
    insert: Literal["linear"] | None = None,
    p: float | Mapping[str, float] | None = None,
    block: Block | Mapping[str, Block] = (128, 128),
    kind: Kind = "bernoulli",
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    select: Literal["profitable", "all"] = "profitable",
    mode: str | None = None,
    inductor: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a model train with block dropout fused into its linear layers. Changes the model in place and returns it.

    Args:
        model: any module; it is compiled, and rewritten, whenever it is called in training mode.
        inner: the backend that compiles the rewritten graph: "inductor", "aot_eager" or "eager".
        insert: "linear" puts dropout before every linear layer that has none; needs ``p``.
        p: a probability instead of the model's own, for all fused dropouts or per pattern of module names;
            0 removes them.
        block: the mask's block, or a dict from patterns of module names to blocks.
        kind: "bernoulli" or "balanced", see `BlockMask.draw`.
        include: patterns of module names; where given, only dropouts in them are fused.
        exclude: patterns of module names whose dropouts are left.
        select: "profitable" leaves dropouts that would not gain; "all" fuses all that can be.
        mode: `torch.compile`'s mode.
        inductor: Inductor config values.

    Outside training the model runs its original forward, uncompiled.
    """
    settings: dict[str, Any] = {
        "inner": inner, "insert": insert, "p": p, "block": block, "kind": kind, "include": include,
        "exclude": exclude, "select": select, "mode": mode, "inductor": inductor,
    }  # fmt: skip
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch._dynamo.OptimizedModule):
        raise TypeError(
            "convert takes the model itself, before torch.compile; instead of compiling it with another backend use "
            'torch.compile(model, backend="sparsedrop", options={…})'
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("convert needs a Python module, got a TorchScript one")
    if type(model).forward is nn.Module.forward and "forward" not in model.__dict__:
        raise TypeError(
            f"model must have a forward, got a {type(model).__name__}; convert the model it is part of or what it holds"
        )
    options = Options.parse(settings)
    options.warn_unmatched(name for name, _ in model.named_modules())
    current = conversion_of(model)
    if current is not None and current.options == options:
        return model
    revert(model)
    own = model.__dict__.get("forward")
    if (own is not None and _set_later.get(id(own)) is own) or _calls_converted(own):
        own = None
    else:
        model.__dict__.pop("forward", None)
    model.__dict__[_ATTRIBUTE] = Conversion(options, own)
    model.__class__ = _converted_class(type(model))
    return model


def revert(model: nn.Module) -> nn.Module:
    """Undo `convert`, in place. A model that is not converted is returned as it is."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"revert takes a torch.nn.Module, got {type(model).__name__}")
    found = model.__dict__.pop(_ATTRIBUTE, None)
    if isinstance(found, Conversion):
        later, innermost = model.__dict__.get("forward"), _innermost.get(type(model))
        if innermost is not None and getattr(later, "__func__", None) is innermost:
            del model.__dict__["forward"]  # unwrapped since: what it had of its own is gone
        elif found.forward is not None:
            model.__dict__["forward"] = found.forward
        elif later is not None:
            _set_later[id(later)] = later
        original = _originals.get(type(model))
        if original is not None:
            model.__class__ = original
    return model


class Conversion:
    """What a converted model carries. Pickles as a plain dict, so that a pickled model loads without this library."""

    def __init__(self, options: Options, forward: Callable[..., Any] | None) -> None:
        self.options = options
        self.forward = forward
        self.explained = False  # `explain` compiles the model itself, whatever parts of it Dynamo skips
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def train(self, model: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One call in training: compiled, or as part of what another `torch.compile` is tracing."""
        if self.explained:
            return forward(model, *args, **kwargs)
        if not torch.compiler.is_compiling():
            if torch._C._functorch.peek_interpreter_stack() is not None:
                _warn_of_transforms()
            return self.compiled(model, forward)(model, *args, **kwargs)
        if _may_break():
            return _apart(self, model, forward, args, kwargs)
        return forward(model, *args, **kwargs)

    def compiled(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        if forward not in self._compiled:
            self._compiled[forward] = compile_apart(_own_frame(forward), Backend(self.options, model))
        return self._compiled[forward]

    def __deepcopy__(self, memo: dict[int, Any]) -> Conversion:
        return Conversion(self.options, copy.deepcopy(self.forward, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ((("lost", True),),)


def conversion_of(model: nn.Module) -> Conversion | None:
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Conversion) and hasattr(type(model), "_sparsedrop_original") else None


def lost_conversion(model: nn.Module) -> bool:
    """Whether this is a copy, by pickling, of a converted model."""
    return _ATTRIBUTE in model.__dict__ and conversion_of(model) is None


# Forwards that were set on a converted model (by accelerate): they call the class's, and must stay around it.
_set_later: weakref.WeakValueDictionary[int, Callable[..., Any]] = weakref.WeakValueDictionary()
_originals: dict[type[nn.Module], type[nn.Module]] = {}
# What is left of a converted class's forward when all that wraps it is taken away.
_innermost: dict[type[nn.Module], Callable[..., Any]] = {}


def _converted_class(original: type[nn.Module]) -> type[nn.Module]:
    """The subclass, made once for each class."""
    for made, known in _originals.items():
        if known is original:
            return made

    @functools.wraps(original.forward)
    def innermost(self: Any, *args: Any, **kwargs: Any) -> Any:
        conversion = getattr(self, _ATTRIBUTE, None)  # none where a forward set before `revert` still comes here
        if conversion is None or not self.training:
            return original.forward(self, *args, **kwargs)
        return conversion.train(self, original.forward, args, kwargs)

    # Unwrapping (accelerate's) ends here, not at the original forward.
    innermost.__signature__ = inspect.signature(original.forward)  # type: ignore[attr-defined]
    del innermost.__wrapped__

    @functools.wraps(innermost)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        conversion = getattr(self, _ATTRIBUTE, None)
        if conversion is None or conversion.forward is None:
            return innermost(self, *args, **kwargs)
        if not self.training:
            return conversion.forward(*args, **kwargs)
        return conversion.train(self, _own_forward, args, kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        reduced: Any = original.__reduce_ex__(self, protocol)
        made, arguments, *rest = reduced
        if arguments[:1] != (type(self),):
            return made, arguments, *rest
        return copyreg._reconstructor, (original, object, None), *rest  # type: ignore[attr-defined]

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        inherited = getattr(original, "__deepcopy__", None)
        if inherited is not None:
            new = inherited(self, memo)
        else:
            new = original.__new__(original)
            memo[id(self)] = new
            new.__setstate__(copy.deepcopy(self.__reduce_ex__(4)[2], memo))
        new.__class__ = type(self)
        return new

    body = {
        "forward": forward, "__reduce_ex__": __reduce_ex__, "__deepcopy__": __deepcopy__, "_sparsedrop": None,
        "_sparsedrop_original": original, "__module__": original.__module__, "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
    }  # fmt: skip
    metaclass: Any = type(original)
    asks = any("__init_subclass__" in vars(base) for base in original.__mro__ if base is not object)
    bases = (_Unannounced, original) if asks and not issubclass(original, _Unannounced) else (original,)
    converted: type[nn.Module] = metaclass(original.__name__, bases, body)
    _originals[converted] = original
    _innermost[converted] = innermost
    return converted


class _Unannounced:
    """In front of a class that asks something of its subclasses, or keeps a list of them: this one is none of them."""

    def __init_subclass__(cls) -> None:
        pass


def _calls_converted(forward: Any) -> bool:
    """Whether a forward is a wrapper around that of a converted class."""
    while forward is not None:
        function = getattr(forward, "__func__", forward)
        if any(vars(made)["forward"] is function for made in _originals):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


def _own_forward(model: Any, *args: Any, **kwargs: Any) -> Any:
    """The forward that an instance had of its own when it was converted."""
    return model._sparsedrop.forward(*args, **kwargs)


def _own_frame(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward with a code object of its own: models of a class do not share one limit of recompilations.

    In a call around it where it is no plain function, or one that Dynamo skips, as those of PyTorch's own containers.
    """
    plain = isinstance(forward, types.FunctionType) and not getattr(forward, "_torchdynamo_disable", False)
    if plain and not torch._dynamo.trace_rules.check(forward):
        own = types.FunctionType(
            forward.__code__.replace(), forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
        )
        own.__kwdefaults__, own.__dict__ = forward.__kwdefaults__, dict(forward.__dict__)
        return own

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return types.FunctionType(call.__code__.replace(), call.__globals__, "call", None, call.__closure__)


@torch._dynamo.assume_constant_result
def _may_break() -> bool:
    """Asked while another compile traces a converted model: whether it can run as a graph of its own there."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        tx: Any = InstructionTranslator.current_tx()
    except (AttributeError, RuntimeError):
        tx = None
    if tx is not None and is_ours(tx.output.compiler_fn):
        return False
    if tx is not None and not tx.one_graph and not getattr(tx, "error_on_graph_break", False):
        return True
    _warn_once()
    return False


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "torch_sparsedrop: a converted model is being compiled whole by another backend, which keeps its ordinary "
        'dropout; use torch.compile(…, backend="sparsedrop") there',
        stacklevel=2,
    )


@functools.cache
def _warn_of_transforms() -> None:
    warnings.warn(
        "torch_sparsedrop: PyTorch does not compile a model that torch.func.grad, vmap or others transform from "
        "outside: a converted one keeps its ordinary dropout there",
        stacklevel=2,
    )


@functools.partial(torch.compiler.disable, reason="a model converted by torch_sparsedrop compiles itself")
def _apart(conversion: Conversion, model: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return conversion.compiled(model, forward)(model, *args, **kwargs)
