"""Each model by name: how to build it with a dropout probability, and its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...cli.errors import need
from .gpt import GPT

Batch = dict[str, Tensor]
EXTRA = "torch_sparsedrop[models]"


@dataclass(frozen=True)
class Model:
    """``build(p, small)`` and ``batch(batch, length, small)``; ``size`` and ``small_size`` are (batch, length)."""

    build: Callable[[float, bool], nn.Module]
    batch: Callable[[int, int, bool], Batch]
    size: tuple[int, int]
    small_size: tuple[int, int] = (2, 64)


def loss_of(result: Any) -> Tensor:
    """A model's own loss, or where it has none, a scalar of its result."""
    loss = getattr(result, "loss", None)
    if loss is not None:
        return loss
    return result if result.dim() == 0 else result.float().square().mean()


def _ids(batch: int, length: int, small: bool, vocabulary: int) -> Tensor:
    return torch.randint(3, 96 if small else vocabulary, (batch, length))


def _nanogpt(p: float, small: bool) -> nn.Module:
    return GPT(96, 64, 2, 2, 64, p) if small else GPT(50304, 1024, 12, 12, 768, p)


def _nanogpt_batch(batch: int, length: int, small: bool) -> Batch:
    ids = _ids(batch, length + 1, small, 50257)
    return {"ids": ids[:, :-1], "targets": ids[:, 1:]}


def _encoder(p: float, small: bool) -> nn.Module:
    width, heads, layers = (64, 2, 2) if small else (1024, 16, 8)
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, p, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def _encoder_batch(batch: int, length: int, small: bool) -> Batch:
    return {"src": torch.randn(batch, length, 64 if small else 1024)}


def _bert(p: float, small: bool) -> nn.Module:
    transformers = need("transformers", "bert-base", EXTRA)
    sizes: dict[str, int] = {}
    if small:
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128,
                 "vocab_size": 96}  # fmt: skip
    config = transformers.BertConfig(
        hidden_dropout_prob=p, attention_probs_dropout_prob=p, problem_type="single_label_classification", **sizes
    )
    return transformers.BertForSequenceClassification(config)


def _bert_batch(batch: int, length: int, small: bool) -> Batch:
    return {"input_ids": _ids(batch, length, small, 30522), "labels": torch.randint(2, (batch,))}


def _t5(p: float, small: bool) -> nn.Module:
    transformers = need("transformers", "t5-base", EXTRA)
    sizes = {"num_layers": 12, "d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072, "vocab_size": 32128}
    if small:
        sizes = {"num_layers": 2, "d_model": 64, "d_kv": 32, "num_heads": 2, "d_ff": 128, "vocab_size": 96}
    config = transformers.T5Config(dropout_rate=p, decoder_start_token_id=0, pad_token_id=0, **sizes)
    return transformers.T5ForConditionalGeneration(config)


def _t5_batch(batch: int, length: int, small: bool) -> Batch:
    return {"input_ids": _ids(batch, length, small, 32000), "labels": _ids(batch, length // 2, small, 32000)}


def _vit(p: float, small: bool) -> nn.Module:
    timm = need("timm", "vit-base", EXTRA)
    sizes: dict[str, Any] = {}
    if small:
        sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
                 "num_classes": 10}  # fmt: skip
    return timm.models.VisionTransformer(
        drop_rate=p, pos_drop_rate=p, proj_drop_rate=p, attn_drop_rate=p, **sizes
    )  # fmt: skip


def _vit_batch(batch: int, length: int, small: bool) -> Batch:
    size = 32 if small else 224
    return {"x": torch.randn(batch, 3, size, size)}


def _lora_llama(p: float, small: bool) -> nn.Module:
    transformers, peft = need("transformers", "lora-llama", EXTRA), need("peft", "lora-llama", EXTRA)
    sizes = {"num_hidden_layers": 4, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 11008,
             "vocab_size": 32000}  # fmt: skip
    if small:
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128,
                 "vocab_size": 96}  # fmt: skip
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(use_cache=False, **sizes)).to(torch.bfloat16)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=16, lora_dropout=p, target_modules=targets, init_lora_weights=False)
    return peft.get_peft_model(base, config)


def _lora_batch(batch: int, length: int, small: bool) -> Batch:
    ids = _ids(batch, length, small, 32000)
    return {"input_ids": ids, "labels": ids}


MODELS = {
    "nanogpt": Model(_nanogpt, _nanogpt_batch, (16, 1024)),
    "bert-base": Model(_bert, _bert_batch, (32, 512)),
    "encoder-layers": Model(_encoder, _encoder_batch, (32, 512)),
    "vit-base": Model(_vit, _vit_batch, (128, 197)),
    "t5-base": Model(_t5, _t5_batch, (16, 512)),
    "lora-llama": Model(_lora_llama, _lora_batch, (4, 2048)),
}
