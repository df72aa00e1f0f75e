"""`convert` changes training and nothing else."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import os
import pickle
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import CASES, _gpt2, _lora, loss_of

import torch_sparsedrop as sparsedrop
from torch_sparsedrop.convert import conversion_of

FAST: dict[str, Any] = {"inner": "eager", "select": "all", "block": 16}


class MLP(nn.Module):
    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.drop1 = nn.Dropout(p)
        self.fc2 = nn.Linear(128, 64)
        self.drop2 = nn.Dropout(p)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(x)))))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def drops_blocks(y: Tensor, block: int = 16) -> bool:
    """Whether zeros come in whole blocks, some but not all."""
    rows = y.detach().reshape(-1, y.shape[-1])
    blocks = rows.unfold(0, block, block).unfold(1, block, block)
    zero = (blocks == 0).flatten(2)
    return bool((zero.all(2) == zero.any(2)).all() and zero.any() and not zero.all())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 16, 64)


def test_eval_costs_nothing(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original forward runs, uncompiled, behind one more Python call: under a microsecond where it was measured."""
    plain, model = MLP().eval(), sparsedrop.convert(MLP(), **FAST)
    model(x)
    model.eval()
    torch._dynamo.utils.counters.clear()
    took: list[list[float]] = [[], []]
    for _ in range(30):
        for module, times in zip((plain, model), took, strict=True):
            start = time.perf_counter()
            for _ in range(20):
                module(x)
            times.append((time.perf_counter() - start) / 20)
    # The least of each: what else the machine does only adds.
    assert min(took[1]) - min(took[0]) < 20e-6
    seen = []
    monkeypatch.setattr(MLP, "forward", lambda self, *args, **kwargs: seen.append((self, args, kwargs)))
    assert model(x, scale=2.0) is None
    assert seen == [(model, (x,), {"scale": 2.0})]
    assert not torch._dynamo.utils.counters["frames"]


def test_trains_with_blocks_and_evaluates_as_before(x: Tensor) -> None:
    model = MLP()
    before = model.eval()(x)
    assert sparsedrop.convert(model, **FAST) is model
    assert torch.equal(model.eval()(x), before)
    assert drops_blocks(model.train()(x))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(model.eval()(x), before)


def test_revert(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    assert drops_blocks(model(x))
    assert sparsedrop.revert(model) is model
    assert type(model) is MLP
    assert not drops_blocks(model(x))
    assert sparsedrop.revert(model) is model


def test_toggling_does_not_recompile(x: Tensor) -> None:
    graphs = []

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    model = sparsedrop.convert(MLP(), **FAST | {"inner": count})
    for _ in range(3):
        model.train()(x).sum().backward()
        with torch.no_grad():
            model.eval()(x)
    assert len(graphs) == 1


def test_looks_the_same() -> None:
    model = MLP()
    keys, text, signature = list(model.state_dict()), repr(model), inspect.signature(model.forward)
    sparsedrop.convert(model, **FAST)
    assert list(model.state_dict()) == keys
    assert repr(model) == text
    assert inspect.signature(model.forward) == signature
    assert isinstance(model, MLP)
    model.load_state_dict(MLP().state_dict())


def test_idempotent(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    first = conversion_of(model)
    assert sparsedrop.convert(model, **FAST) is model
    assert conversion_of(model) is first
    sparsedrop.convert(model, **FAST, exclude="drop2")
    assert not drops_blocks(model(x))
    sparsedrop.revert(model)
    assert type(model) is MLP


def test_deepcopy_keeps_the_conversion(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    twin = copy.deepcopy(model)
    assert sparsedrop.explain(twin, x).to_dict()["converted"]
    assert drops_blocks(twin(x))
    twin.fc1.weight.data.zero_()
    assert model.fc1.weight.abs().sum() > 0
    sparsedrop.revert(twin)
    assert drops_blocks(model(x))


@pytest.mark.parametrize("how", ["pickle", "save"])
def test_pickles_lose_it_and_say_so(x: Tensor, how: str) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    model(x)
    if how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert type(twin) is MLP
    report = sparsedrop.explain(twin, x).to_dict()
    assert not report["converted"]
    assert "lost its conversion" in report["notes"][0]
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert not sparsedrop.explain(sparsedrop.convert(twin, **FAST), x).notes


def test_sequential(x: Tensor) -> None:
    models = [nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)) for _ in range(12)]
    for model in models:  # each has its own limit of recompilations
        assert drops_blocks(sparsedrop.convert(model, **FAST)(x))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_again(x: Tensor, wrapped: bool, fullgraph: bool) -> None:
    """The rewrite is kept where a graph may break, and else a warning says what to do, once."""
    sys.modules["torch_sparsedrop.convert"]._warn_once.cache_clear()  # type: ignore[attr-defined]
    model = sparsedrop.convert(MLP(), **FAST)
    outer = torch.compile(
        nn.Sequential(model, nn.Identity()) if wrapped else model, backend="eager", fullgraph=fullgraph
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = outer(x)
        outer(x[:2])
    ours = [w for w in caught if "torch_sparsedrop" in str(w.message) and "compiled whole" in str(w.message)]
    assert drops_blocks(y) != fullgraph
    assert len(ours) == fullgraph
    assert all('backend="sparsedrop"' in str(w.message) for w in ours)


def test_compiled_again_with_this_backend(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    outer = torch.compile(model, backend="sparsedrop", fullgraph=True, options=FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert drops_blocks(outer(x))


def test_model_compile_in_place(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    model.compile(backend="eager")
    assert drops_blocks(model(x))


def test_inside_a_converted_model(x: Tensor) -> None:
    inner = sparsedrop.convert(MLP(), **FAST)
    outer = sparsedrop.convert(nn.Sequential(inner), **FAST)
    assert drops_blocks(outer(x))


def test_forward_of_its_own(x: Tensor) -> None:
    """A forward set on the instance, as accelerate does, before or after."""
    model = MLP()
    plain = model.forward
    model.forward = lambda x: plain(x) * 2
    before = model.eval()(x)
    sparsedrop.convert(model, **FAST).train()
    assert drops_blocks(model(x))
    assert torch.equal(model.eval()(x), before)
    sparsedrop.revert(model)
    assert torch.equal(model(x), before)
    model = sparsedrop.convert(MLP(), **FAST)
    wrapped = model.forward
    model.forward = lambda x: wrapped(x) * 2
    assert drops_blocks(model(x))


def wrap_forward(model: nn.Module) -> None:
    """As accelerate does for mixed precision."""
    function = model.forward.__func__

    @functools.wraps(function)
    def doubled(self: nn.Module, x: Tensor) -> Tensor:
        return function(self, x) * 2

    model.forward = types.MethodType(doubled, model)


def test_converted_again_under_a_forward_of_its_own(x: Tensor) -> None:
    model = MLP()
    wanted = model.eval()(x) * 2
    sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    sparsedrop.convert(model, **FAST | {"kind": "balanced"})
    assert torch.equal(model(x), wanted)
    assert drops_blocks(model.train()(x))
    assert torch.equal(sparsedrop.revert(model.eval())(x), wanted)
    assert not drops_blocks(model.train()(x))
    sparsedrop.convert(model, **FAST)
    assert drops_blocks(model(x))
    assert torch.equal(model.eval()(x), wanted)


def test_converted_again_under_a_plain_function(x: Tensor) -> None:
    """Which does not say what it calls."""
    model = sparsedrop.convert(MLP(), **FAST)
    wanted, converted = model.eval()(x) * 2, model.forward
    model.forward = lambda x: converted(x) * 2
    for _ in range(2):
        sparsedrop.revert(model)
        assert not drops_blocks(model.train()(x))
        sparsedrop.convert(model, **FAST)
        assert drops_blocks(model(x))
        assert torch.equal(model.eval()(x), wanted)


def test_converted_again_between_two_forwards(x: Tensor) -> None:
    model = MLP()
    wrap_forward(model)
    sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    sparsedrop.convert(model, **FAST | {"kind": "balanced"})
    assert drops_blocks(model(x))


@pytest.mark.parametrize("first", ["converted", "wrapped"])
def test_unwrapped_by_accelerate(x: Tensor, first: str) -> None:
    """Which follows `__wrapped__` to its end and makes that the model's forward."""
    model = MLP()
    plain = model.eval()(x)
    if first == "converted":
        sparsedrop.convert(model, **FAST)
    wrap_forward(model)
    if first == "wrapped":
        sparsedrop.convert(model, **FAST)
    assert torch.equal(model(x), plain * 2)
    forward: Any = model.forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    model.forward = types.MethodType(forward, model)
    assert torch.equal(model(x), plain)
    assert drops_blocks(model.train()(x))
    assert list(inspect.signature(model.forward).parameters) == ["x", "scale"]
    assert torch.equal(sparsedrop.revert(model.eval())(x), plain)
    assert "forward" not in model.__dict__
    sparsedrop.convert(model.train(), **FAST)
    assert drops_blocks(model(x))


def test_patterns_under_a_forward_of_its_own(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), exclude="drop2", **FAST)
    wrap_forward(model)
    assert not drops_blocks(model(x))
    rows = sparsedrop.explain(model, x).to_dict()["sites"]
    assert [(row["module"], row["decision"]) for row in rows] == [("drop1", "fused"), ("drop2", "left")]


def test_hooks_and_keywords(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST)
    seen = []
    model.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    assert drops_blocks(model(x, scale=2.0))
    assert seen == [x.shape]


def test_refuses() -> None:
    with pytest.raises(TypeError, match=r"before torch\.compile"):
        sparsedrop.convert(torch.compile(MLP()))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        sparsedrop.convert(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"revert takes a torch\.nn\.Module, got function"):
        sparsedrop.revert(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"explain takes a torch\.nn\.Module and its inputs, got type"):
        sparsedrop.explain(MLP, torch.randn(4, 4))  # type: ignore[arg-type]
    for container in (nn.ModuleList([MLP()]), nn.ModuleDict({"a": MLP()}), nn.ParameterList()):
        with pytest.raises(TypeError, match=r"model must have a forward, got a (Module|Parameter)"):
            sparsedrop.convert(container)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        sparsedrop.convert(MLP(), p=1.5)
    with pytest.raises(ValueError, match="profitable"):
        sparsedrop.convert(MLP(), select="profitble")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs p="):
        sparsedrop.convert(MLP(), insert="linear")


def test_unmatched_pattern() -> None:
    with pytest.warns(UserWarning, match="did you mean 'drop1'"):
        sparsedrop.convert(MLP(), exclude="drop_1")


def test_generate_and_save(tmp_path: Path) -> None:
    case = CASES["gpt2"]
    model, batch = case.make()
    ids = batch["input_ids"]
    model.eval()
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    sparsedrop.convert(model, **FAST)
    loss_of(model.train()(**batch)).backward()
    model.eval()
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), before)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert type(again).__name__ == "GPT2LMHeadModel"
    assert again.config.architectures == ["GPT2LMHeadModel"]
    assert torch.equal(again.eval()(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("order", ["before", "after"])
def test_peft(order: str) -> None:
    model, (_, batch) = _gpt2(), CASES["gpt2"].make()
    targets, settings = ["c_attn", "c_proj", "c_fc"], {"fan_in_fan_out": True}
    if order == "before":
        sparsedrop.convert(model, **FAST)
        model = _lora(model, targets, **settings)
        fused = sparsedrop.explain(model.base_model.model, **batch)
    else:
        model = sparsedrop.convert(_lora(model, targets, **settings), **FAST)
        fused = sparsedrop.explain(model, **batch)
    assert fused.converted
    assert fused.totals["fused"] == 12
    loss_of(model.train()(**batch)).backward()
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora" in name for name in trained)


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_gradient_checkpointing(inner: str) -> None:
    """Recomputed masks are the first ones: the gradients are those without checkpointing."""
    found = []
    for checkpointed in (False, True):
        torch._dynamo.reset()
        model, batch = CASES["bert"].make()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        sparsedrop.convert(model, inner=inner, select="all", block=16, exclude="bert.embeddings")
        assert sparsedrop.explain(model, **batch).totals["fused"] == 4
        torch.manual_seed(0)
        loss_of(model(**batch)).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_trainer(tmp_path: Path, compiled: bool) -> None:
    from transformers import Trainer, TrainingArguments

    model, batch = CASES["gpt2"].make()
    seen = []

    def inner(module: Any, inputs: Any) -> Any:
        seen.append(str(module.graph))
        return module.forward

    sparsedrop.convert(model, **FAST | {"inner": inner})
    data = [{"input_ids": row, "labels": row} for row in batch["input_ids"]] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True, save_strategy="no",
        torch_compile=compiled, torch_compile_backend="eager" if compiled else None, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    trainer.train()
    assert any("sparsedrop.linear" in graph for graph in seen)
    assert not torch.equal(before, model.transformer.h[0].mlp.c_fc.weight)
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model(str(tmp_path / "out"))


def test_ddp(tmp_path: Path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(
        "import os, torch, torch.nn as nn, torch_sparsedrop as sd\n"
        "from torch.nn.parallel import DistributedDataParallel as DDP\n"
        "torch.distributed.init_process_group('gloo', rank=0, world_size=1, "
        f"init_method='file://{tmp_path}/store')\n"
        "model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Dropout(.5), nn.Linear(128, 64), nn.Dropout(.5))\n"
        "model = DDP(sd.convert(model, inner='aot_eager', select='all', block=16))\n"
        "y = model(torch.randn(64, 64))\n"
        "blocks = y.detach().view(4, 16, 4, 16).transpose(1, 2).flatten(2) == 0\n"
        "assert (blocks.all(2) == blocks.any(2)).all() and blocks.any()\n"
        "y.sum().backward()\n"
        "assert all(p.grad is not None for p in model.parameters())\n"
        "torch.distributed.destroy_process_group()\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert result.returncode == 0, result.stderr


def test_autocast(x: Tensor) -> None:
    model = sparsedrop.convert(MLP(), **FAST | {"inner": "aot_eager"})
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert drops_blocks(y)
    y.float().sum().backward()
    assert model.fc1.weight.grad is not None
