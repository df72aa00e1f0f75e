"""Fine-tune an encoder with Hugging Face's Trainer, its dropouts fused by one line.

    python examples/huggingface.py        under two minutes on two cores; random weights, nothing is downloaded

The task: does a new speaker begin in a piece of a play? Other families are in families.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

import torch_sparsedrop as sparsedrop

TEXT = Path(__file__).parent / "demo" / "shakespeare.txt"


class Pieces(Dataset):
    """Pieces of a play as bytes; the label is 1 where one holds an empty line, after which another speaks."""

    def __init__(self, text: bytes, length: int) -> None:
        self.pieces = [text[start : start + length] for start in range(0, len(text) - length, length)]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Any]:
        piece = self.pieces[index]
        return {"input_ids": torch.tensor(list(piece)), "labels": int(b"\n\n" in piece)}


def make_model(width: int, length: int) -> Any:
    """A small BERT over bytes. With weights of your own: ``BertForSequenceClassification.from_pretrained(...)``."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=256, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=4 * width,
            max_position_embeddings=length,
        )
    )  # fmt: skip


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(width: int = 256, length: int = 64, steps: int = 60, inner: str = "inductor") -> dict[str, float]:
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(0)
    text = TEXT.read_bytes()
    train, test = Pieces(text[: len(text) // 10 * 9], length), Pieces(text[len(text) // 10 * 9 :], length)
    model = make_model(width, length)

    # Narrow as this model is, blocks of 64 columns leave 4 in a row; with real widths leave ``block`` out.
    sparsedrop.convert(model, inner=inner, block=(128, width // 4))
    rows = torch.stack([train[i]["input_ids"] for i in range(32)])
    print(sparsedrop.explain(model, input_ids=rows))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=32, per_device_eval_batch_size=128,
            learning_rate=5e-4, warmup_steps=steps // 10, logging_steps=max(steps // 4, 1), report_to=[], seed=0,
            dataloader_drop_last=True, dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=test, compute_metrics=accuracy)
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
        # What is saved is a plain BERT.
        trainer.save_model(folder)
        trainer.model = type(model).from_pretrained(folder).to(trainer.args.device)
        reloaded = trainer.evaluate()["eval_accuracy"]
    print(f"test accuracy: {before:.1%} before, {after:.1%} after {steps} steps, {reloaded:.1%} saved and loaded again")
    return {"before": before, "after": after, "reloaded": reloaded}


if __name__ == "__main__":
    main()
