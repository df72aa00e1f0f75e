"""LoRA with PEFT, its dropouts fused: the adapters do not read what they drop.

    python examples/lora.py        under a minute on two cores; random weights, nothing is downloaded

Adapters are so narrow that most of their time goes into reading the activation, and a copy of it with dropout is
written and read again. With SparseDrop the copy is not made and dropped blocks are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import torch_sparsedrop as sparsedrop

TEXT = Path(__file__).parent / "demo" / "shakespeare.txt"


def make_model(width: int) -> Any:
    """A small GPT-2 over bytes. With weights of your own: ``GPT2LMHeadModel.from_pretrained(...)``."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    # Without its own dropout, as a model under LoRA is often used: the adapters' remains.
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=256, n_layer=2, n_embd=width, n_head=8, bos_token_id=0, eos_token_id=0, **off)
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.1, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True
    )
    return get_peft_model(GPT2LMHeadModel(config), lora)


def main(width: int = 512, rows: int = 128, steps: int = 20, inner: str = "inductor") -> tuple[Any, list[float]]:
    torch.manual_seed(0)
    text = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()
    model = make_model(width).train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}

    sparsedrop.convert(model, inner=inner)
    report = sparsedrop.explain(model, input_ids=text[: 4 * rows].view(4, rows))
    print(report)

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(steps):
        starts = torch.randint(len(text) - rows, (4,)).tolist()
        batch = torch.stack([text[start : start + rows] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 5 == 4:
            print(f"step {step + 1}: loss {losses[-1]:.3f}")

    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], before) for name, before in frozen.items())
    # Adapters merge into the weights as ever.
    merged = sparsedrop.revert(model.eval()).merge_and_unload()
    print(f"merged: {sum(p.numel() for p in merged.parameters()):,} parameters, a plain {type(merged).__name__}")
    return report, losses


if __name__ == "__main__":
    main()
