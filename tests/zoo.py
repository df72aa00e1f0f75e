"""Models as their libraries make them, small, two layers, every dropout probability 0.1, and what must be fused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vision import import_timm

P = 0.1
WIDTH, ROWS, VOCABULARY = 64, 24, 96


@dataclass
class Case:
    """A model, one batch, and the sites of each class that must be fused."""

    name: str
    build: Callable[[], tuple[nn.Module, dict[str, Any]]]
    fused: dict[str, int]
    left: dict[str, int]
    options: dict[str, Any]

    def make(self) -> tuple[nn.Module, dict[str, Any]]:
        torch.manual_seed(0)
        model, batch = self.build()
        return model.train(), batch


CASES: dict[str, Case] = {}


def case(name: str, fused: dict[str, int], left: dict[str, int] | None = None, **options: Any) -> Callable[..., Any]:
    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        CASES[name] = Case(name, build, fused, left or {}, options)
        return build

    return register


def loss_of(result: Any) -> Tensor:
    """A scalar of a model's result: its own loss where it has one."""
    if isinstance(result, tuple):
        result = result[1]
    loss = getattr(result, "loss", None)
    return loss if loss is not None else torch.sin(3 * result).mean()


def _ids(rows: int = ROWS) -> Tensor:
    return torch.randint(3, VOCABULARY, (2, rows))


def _text() -> dict[str, Tensor]:
    ids = _ids()
    return {"input_ids": ids, "labels": ids}


@case("nanogpt", {"C": 4}, {"E": 2, "F": 1})
def _() -> Any:
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "nanogpt"))
    from model import GPT, Config

    ids = _ids()
    return GPT(Config(VOCABULARY, 32, 2, 2, WIDTH, P)), {"ids": ids, "targets": ids}


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_embd=WIDTH, n_head=2, vocab_size=VOCABULARY, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config)


@case("gpt2", {"C": 4}, {"E": 2, "F": 1})
def _() -> Any:
    return _gpt2(), _text()


def _bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=128, vocab_size=VOCABULARY,
        problem_type="single_label_classification",
    )  # fmt: skip


@case("bert", {"A": 1, "C": 4}, {"E": 2})
def _() -> Any:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(_bert_config()), _text()


@case("bert-classification", {"A": 1, "B": 1, "C": 4}, {"E": 2})
def _() -> Any:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(_bert_config()), {"input_ids": _ids(), "labels": torch.tensor([0, 1])}


def _t5(**settings: Any) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        num_layers=2, d_model=WIDTH, d_kv=32, num_heads=2, d_ff=128, vocab_size=VOCABULARY, dropout_rate=P,
        decoder_start_token_id=0, pad_token_id=0, **settings,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


@case("t5", {"A": 2, "B": 4, "C": 10}, {"E": 6, "F": 2})
def _() -> Any:
    return _t5(), _text()


@case("t5-v1.1", {"A": 2, "B": 4, "C": 10}, {"E": 6, "F": 2})
def _() -> Any:
    return _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False), _text()


@case("bart", {"A": 2, "B": 4, "C": 10}, {"E": 6})
def _() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        encoder_layers=2, decoder_layers=2, d_model=WIDTH, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=VOCABULARY, max_position_embeddings=64, dropout=P,
        attention_dropout=P, activation_dropout=P,
    )  # fmt: skip
    return BartForConditionalGeneration(config), _text()


@case("modernbert", {"A": 1, "B": 2, "C": 2}, {"E": 2})
def _() -> Any:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=128, vocab_size=VOCABULARY,
        max_position_embeddings=64, embedding_dropout=P, mlp_dropout=P, attention_dropout=P, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return ModernBertForMaskedLM(config), _text()


@case("falcon", {"C": 2})
def _() -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, vocab_size=VOCABULARY, hidden_dropout=P,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return FalconForCausalLM(config), _text()


@case("opt", {"C": 4}, {"E": 2})
def _() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, ffn_dim=128, vocab_size=VOCABULARY,
        max_position_embeddings=64, dropout=P, attention_dropout=P, word_embed_proj_dim=WIDTH,
    )  # fmt: skip
    return OPTForCausalLM(config), _text()


@case("vit", {"C": 4}, {"E": 2, "F": 1})
def _() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=128, image_size=32,
        patch_size=8, num_labels=10, hidden_dropout_prob=P, attention_probs_dropout_prob=P,
        problem_type="single_label_classification",
    )  # fmt: skip
    return ViTForImageClassification(config), {
        "pixel_values": torch.randn(2, 3, 32, 32),
        "labels": torch.tensor([0, 1]),
    }


@case("timm-vit", {"A": 1, "B": 2, "C": 4}, {"E": 2, "F": 1})
def _() -> Any:
    model = import_timm().models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=2, mlp_ratio=2, num_classes=10, drop_rate=P,
        pos_drop_rate=P, proj_drop_rate=P, attn_drop_rate=P,
    )  # fmt: skip
    return model, {"x": torch.randn(2, 3, 32, 32)}


@case("timm-mixer", {"A": 1, "B": 4, "C": 4})
def _() -> Any:
    model = import_timm().models.MlpMixer(
        num_classes=10, img_size=32, patch_size=4, num_blocks=2, embed_dim=WIDTH, drop_rate=P, proj_drop_rate=P
    )
    return model, {"x": torch.randn(2, 3, 32, 32)}


for _activation in ("relu", "gelu"):
    for _first in (False, True):
        _letters = {"B": 2, "C": 4}

        @case(f"encoder-{_activation}-{'pre' if _first else 'post'}", _letters, {"E": 2})
        def _(activation: str = _activation, first: bool = _first) -> Any:
            layer = nn.TransformerEncoderLayer(WIDTH, 2, 128, P, activation, norm_first=first, batch_first=True)
            model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            return model, {"src": torch.randn(2, ROWS, WIDTH)}


@case("transformer", {"B": 4, "C": 10}, {"E": 6})
def _() -> Any:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = nn.Transformer(WIDTH, 2, 2, 2, 128, P, batch_first=True)

        def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1], dtype=tgt.dtype)
            return self.transformer(src, tgt, tgt_mask=mask, tgt_is_causal=True)

    return Translator(), {"src": torch.randn(2, ROWS, WIDTH), "tgt": torch.randn(2, 12, WIDTH)}


@case("vgg", {"B": 2})
def _() -> Any:
    class VGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2))
            self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
            self.classifier = nn.Sequential(
                nn.Linear(128, WIDTH), nn.ReLU(True), nn.Dropout(P),
                nn.Linear(WIDTH, WIDTH), nn.ReLU(True), nn.Dropout(P), nn.Linear(WIDTH, 10),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    return VGG(), {"x": torch.randn(16, 3, 16, 16)}


def _lora(model: nn.Module, targets: list[str], **settings: Any) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_dropout=P, target_modules=targets, init_lora_weights=False, **settings)
    return get_peft_model(model, config)


@case("lora-gpt2", {"A": 6, "B": 2, "C": 4}, {"E": 2, "F": 1})
def _() -> Any:
    return _lora(_gpt2(), ["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True), _text()


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=128, vocab_size=VOCABULARY
    )
    return LlamaForCausalLM(config)


@case("lora-llama", {"A": 12, "B": 2})
def _() -> Any:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return _lora(_llama(), targets), _text()


@case("llama-insert", {"A": 15}, insert="linear")
def _() -> Any:
    return _llama(), _text()


@case("qwen2-insert", {"A": 15}, insert="linear")
def _() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        num_hidden_layers=2, hidden_size=WIDTH, num_attention_heads=2, num_key_value_heads=2, intermediate_size=128,
        vocab_size=VOCABULARY,
    )  # fmt: skip
    return Qwen2ForCausalLM(config), _text()
