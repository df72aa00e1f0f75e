"""Unmodified models from Hugging Face, timm, PEFT and torch.nn, each made to train with SparseDrop by one line.

    python examples/families.py [bert | gpt2 | t5 | bart | vit | lora | llama | timm | torch]

The models have random weights and two layers, so that nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import torch_sparsedrop as sparsedrop


def text(rows: int = 128) -> dict[str, Any]:
    ids = torch.randint(3, 1000, (8, rows))
    return {"input_ids": ids, "labels": ids}


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(num_hidden_layers=2, vocab_size=1000))
    return model, {"input_ids": torch.randint(3, 1000, (8, 128)), "labels": torch.randint(2, (8,))}


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=2, vocab_size=1000, bos_token_id=1, eos_token_id=2)), text()


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(num_layers=2, vocab_size=1000, decoder_start_token_id=0)), text()


def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(encoder_layers=2, decoder_layers=2, vocab_size=1000, activation_dropout=0.1)
    return BartForConditionalGeneration(config), text()


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(num_hidden_layers=2, hidden_dropout_prob=0.1, num_labels=10))
    return model, {"pixel_values": torch.randn(4, 3, 224, 224), "labels": torch.randint(10, (4,))}


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    model, batch = gpt2()
    return get_peft_model(model, LoraConfig(target_modules=["c_attn", "c_proj"], lora_dropout=0.1)), batch


def llama() -> Any:
    """No dropout in the model: insert="linear" puts SparseDrop before every linear, as in the paper."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(num_hidden_layers=2, hidden_size=1024, intermediate_size=2048, vocab_size=1000)
    return LlamaForCausalLM(config), text(), {"insert": "linear", "p": 0.2, "exclude": "lm_head"}


def timm() -> Any:
    from timm.models import VisionTransformer

    return VisionTransformer(depth=2, num_classes=10, proj_drop_rate=0.1), {"x": torch.randn(4, 3, 224, 224)}


def torch_nn() -> Any:
    layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), {"src": torch.randn(8, 128, 768)}


MODELS: dict[str, Callable[[], Any]] = {
    "bert": bert, "gpt2": gpt2, "t5": t5, "bart": bart, "vit": vit, "lora": lora, "llama": llama, "timm": timm,
    "torch": torch_nn,
}  # fmt: skip


def main(name: str = "bert", steps: int = 3, inner: str = "inductor") -> Any:
    torch.manual_seed(0)
    model, batch, *settings = MODELS[name]()
    sparsedrop.convert(model.train(), inner=inner, **(settings[0] if settings else {}))
    report = sparsedrop.explain(model, **batch)
    print(report)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(steps):
        result = model(**batch)
        loss = result.loss if hasattr(result, "loss") else result.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.4f}")
    return report


if __name__ == "__main__":
    main(*sys.argv[1:2])
