"""`convert` with what else trains models: Hugging Face, PEFT, Accelerate, checkpointing, DDP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import FAST
from zoo import CASES, _gpt2, _lora, loss_of

import torch_sparsedrop as sparsedrop

pytestmark = pytest.mark.usefixtures("fresh_compiler")


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
    """Imports come before the group and the model goes before it: what holds a group leaves its threads running.

    A thread of Gloo's that drops its last work while the interpreter ends aborts the process, with
    `convert` or without.
    """
    script = tmp_path / "ddp.py"
    script.write_text(
        "import torch, torch.nn as nn, torch_sparsedrop as sd\n"
        "from torch.nn.parallel import DistributedDataParallel as DDP\n"
        "def train():\n"
        "    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Dropout(.5), nn.Linear(128, 64), nn.Dropout(.5))\n"
        "    model = DDP(sd.convert(model, inner='aot_eager', select='all', block=16))\n"
        "    y = model(torch.randn(64, 64))\n"
        "    blocks = y.detach().view(4, 16, 4, 16).transpose(1, 2).flatten(2) == 0\n"
        "    assert (blocks.all(2) == blocks.any(2)).all() and blocks.any()\n"
        "    y.sum().backward()\n"
        "    assert all(p.grad is not None for p in model.parameters())\n"
        "torch.distributed.init_process_group('gloo', rank=0, world_size=1, "
        f"init_method='file://{tmp_path}/store')\n"
        "train()\n"
        "torch.distributed.destroy_process_group()\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
