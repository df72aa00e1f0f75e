"""Train a character-level GPT, its dropouts fused by the backend.

python examples/nanogpt/train.py input.txt --steps 2000
python examples/nanogpt/train.py input.txt --backend inductor       the same with ordinary dropout
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from model import GPT, Config
from torch import Tensor


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a text file to learn")
    parser.add_argument("--backend", default="sparsedrop", help="torch.compile's backend")
    parser.add_argument("--inner", default="inductor", help="what compiles the rewritten graph")
    parser.add_argument("--block", type=int, nargs=2, default=(128, 64), help="the mask's block: rows, columns")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=100, help="steps between reports")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> float:
    args = arguments(given)
    torch.manual_seed(1337)
    text = args.text.read_text()
    letters = sorted(set(text))
    number = {letter: i for i, letter in enumerate(letters)}
    data = torch.tensor([number[letter] for letter in text])
    split = int(0.9 * len(data))
    parts = {"train": data[:split], "validation": data[split:]}

    def batch(part: str) -> tuple[Tensor, Tensor]:
        source = parts[part]
        starts = torch.randint(len(source) - args.context - 1, (args.batch,))
        rows = torch.stack([source[start : start + args.context + 1] for start in starts.tolist()]).to(args.device)
        return rows[:, :-1], rows[:, 1:]

    config = Config(len(letters), args.context, args.layers, args.heads, args.width, args.dropout)
    model = GPT(config).to(args.device)
    options = {"inner": args.inner, "block": tuple(args.block)} if args.backend == "sparsedrop" else None
    compiled = torch.compile(model, backend=args.backend, options=options)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.99))
    validation, start = float("nan"), time.perf_counter()
    for step in range(1, args.steps + 1):
        _, loss = compiled(*batch("train"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % args.every == 0 or step == args.steps:
            model.eval()
            with torch.no_grad():
                validation = sum(model(*batch("validation"))[1].item() for _ in range(4)) / 4
            model.train()
            seconds = (time.perf_counter() - start) / args.every
            print(f"step {step}: loss {loss.item():.3f}, validation {validation:.3f}, {seconds * 1e3:.0f} ms a step")
            start = time.perf_counter()
    prompt = torch.zeros((1, 1), dtype=torch.long, device=args.device)
    print("".join(letters[i] for i in model.eval().generate(prompt, 200)[0].tolist()))
    return validation


if __name__ == "__main__":
    main()
