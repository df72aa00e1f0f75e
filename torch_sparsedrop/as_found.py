"""Running a model in training and leaving it as it was found."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._library.utils import zip_schema
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


@contextlib.contextmanager
def as_found(model: nn.Module, inputs: Any = ()) -> Iterator[Originals]:
    """Training mode inside; modes, parameters, buffers, gradients, random states and ``inputs`` as before outside.

    Of the parameters only those are kept that are written to while the yielded mode is on.
    """
    modes = {module: module.training for module in model.modules()}
    tables: list[tuple[Any, Any]]
    tables = [(table, dict(table)) for module in modes for table in (module._parameters, module._buffers)]
    given = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.layout == torch.strided]
    copies = [(tensor, tensor.detach().clone()) for tensor in (*model.buffers(), *given)]
    grads = {parameter: parameter.grad for parameter in model.parameters()}
    originals = Originals(model)
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numbers = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        try:
            if not model.training:
                model.train()
            yield originals
        finally:
            for module, mode in modes.items():
                module.training = mode
            for table, entries in tables:
                table.clear()
                table.update(entries)
            for parameter, grad in grads.items():
                parameter.grad = grad
            random.setstate(python)
            if numpy:
                numpy.random.set_state(numbers)
            for tensor, saved in [*copies, *originals.saved.values()]:
                if tensor.is_meta:
                    continue
                if tensor.layout != torch.strided or not torch.equal(tensor, saved):
                    with torch.no_grad():
                        tensor.copy_(saved)


class Originals(TorchDispatchMode):
    """Copies a parameter just before an op writes to its memory: copies of all would double a large model."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._parameters = {
            parameter.untyped_storage()._cdata: parameter
            for parameter in model.parameters()
            if parameter.layout == torch.strided and not nn.parameter.is_lazy(parameter)
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable:
            for argument, value in zip_schema(func._schema, args, kwargs):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._save(value)
        return func(*args, **kwargs)

    def _save(self, written: Any) -> None:
        for tensor in pytree.tree_leaves(written):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                key = tensor.untyped_storage()._cdata
                if key in self._parameters and key not in self.saved:
                    parameter = self._parameters[key]
                    self.saved[key] = (parameter, parameter.detach().clone())
