"""The tables of README.md, made from results and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from summary import Mean, Results, Run, Way, label, test, validation, way_of
from tasks import OURS

PAPER = {
    "mlp": {
        "dense": ("–", "96.96 ± 0.62", "0.166 ± 0.087", "1.94 ± 0.10"),
        "dropout": ("0.5", "97.82 ± 0.24", "0.080 ± 0.023", "2.78 ± 0.51"),
        "sparsedrop": ("0.3", "97.61 ± 0.20", "0.092 ± 0.036", "3.18 ± 0.13"),
    },
    "fashion": {
        "dense": ("–", "85.69", "0.419", "20.15"),
        "dropout": ("0.5", "86.84", "0.396", "38.08"),
        "sparsedrop": ("0.2", "87.04", "0.382", "22.62"),
    },
    "cifar10": {
        "dense": ("–", "48.71", "1.669", "12.3"),
        "dropout": ("0.4", "53.05", "1.524", "24.73"),
        "sparsedrop": ("0.4", "56.79", "1.264", "45.05"),
    },
    "gpt": {
        "dense": ("–", "–", "1.643", "6.48"),
        "dropout": ("0.6", "–", "1.448", "46.8"),
        "sparsedrop": ("0.5", "–", "1.430", "42.6"),
    },
}
"""Table 1 of the paper: best p, validation accuracy in %, validation loss, minutes to the stop on an RTX 2060 Max-Q."""


def table1(all_results: Sequence[Results]) -> str:
    """Best p by the validation set; accuracy and loss are of one checkpoint, the one that early stopping chose.

    The lowest loss of all evaluations, wherever it was, is what the paper's code takes.
    """
    head = ["task", "method", "best p", "seeds", "val accuracy", "val loss", "test accuracy", "test loss"]
    head += ["lowest val loss", "paper: p", "val accuracy", "lowest val loss"]
    rows = []
    for results in all_results:
        for way in results.main():
            runs = results.best(way)
            cells = [results.task.title, label(way), _p(results, way), str(len(runs))]
            for split in (validation, test):
                accuracy = Mean.of([split(run, "accuracy") for run in runs]).text(".2f", 100)
                cells.append("–" if results.task.monitor == "loss" else accuracy)
                cells.append(Mean.of([split(run, "loss") for run in runs]).text())
            lowest = Mean.of([run["lowest_loss"] for run in runs]).text()
            rows.append([*cells, lowest, *_paper(results, way)[:3]])
    return table(head, rows, left=2)


def steps(all_results: Sequence[Results]) -> str:
    """A faster step is no gain if it takes more of them: steps to the best checkpoint, times a step's time."""
    head = ["task", "method", "p", "ms a step", "of dense", "steps to the best", "of dropout's", "seconds"]
    head += ["steps to the stop", "seconds", "paper: minutes", "steps to dropout's best", "seconds"]
    rows = []
    for results in all_results:
        theirs = _steps(results, DROPOUT) if DROPOUT in results.runs else None
        dense = results.milliseconds(("dense", None), 0.0)
        for way in results.main():
            runs, own = results.best(way), results.milliseconds(way, results.best_p(way))

            def seconds(count: float, own: float | None = own) -> str:
                return f"{count * own / 1e3:.1f}" if own else "–"

            to_best = Mean.of([run["best_step"] for run in runs])
            to_stop = Mean.of([run["steps"] for run in runs])
            cells = [results.task.title, label(way), _p(results, way)]
            cells += [f"{own:.3f}", f"{own / dense:.2f}"] if own and dense else ["–", "–"]
            cells += [to_best.text(".0f"), f"{to_best.value / theirs.value:.2f}" if theirs else "–"]
            cells += [seconds(to_best.value), to_stop.text(".0f"), seconds(to_stop.value), _paper(results, way)[3]]
            rows.append([*cells, *_until_as_good(results, runs, seconds)])
    return table(head, rows, left=2)


def _until_as_good(results: Results, runs: list[Run], seconds: Callable[[float], str]) -> list[str]:
    """Steps and seconds until the validation set said what it said of dropout's best checkpoint with the same seed."""
    if DROPOUT not in results.runs:
        return ["–", "–"]
    targets = {run["seed"]: results.monitored(run) for run in results.best(DROPOUT)}
    found = [results.as_good_as(run, targets[run["seed"]]) for run in runs if run["seed"] in targets]
    reached = [count for count in found if count is not None]
    if not found or len(reached) < len(found):
        return [f"{len(reached)} of {len(found)} seeds get there", "–"]
    mean = Mean.of(reached)
    return [mean.text(".0f"), seconds(mean.value)]


def against_dropout(all_results: Sequence[Results]) -> str:
    """SparseDrop minus dropout, each at its best p, in pairs of one seed: the same data, weights and batches."""
    rows = []
    for results in all_results:
        for way in results.main():
            if way[1] and DROPOUT in results.runs:
                cells = [results.task.title, label(way), f"{_p(results, way)} − {_p(results, DROPOUT)}"]
                rows.append([*cells, *_differences(results, results.best(way), results.best(DROPOUT))])
    return table(["task", "method", "p", *DIFFERENCES], rows, left=2)


def kinds(all_results: Sequence[Results]) -> str:
    """Balanced minus Bernoulli at the same p, in pairs of one seed."""
    rows = []
    for results in all_results:
        for way in results.main():
            other = ("bernoulli", way[1])
            if way[0] == "balanced" and other in results.runs:
                for p in sorted(set(results.runs[way]) & set(results.runs[other])):
                    found = _differences(results, results.runs[way][p], results.runs[other][p])
                    rows.append([results.task.title, f"{p:g}", *found])
    return table(["task", "p", *DIFFERENCES], rows, left=1)


def blocks(all_results: Sequence[Results]) -> str:
    """Validation loss at the same p by the size of blocks; single values, as dropout drops them, are the smallest."""
    sizes = sorted({way[1] for results in all_results for way in results.runs if way[1]}, reverse=True)
    rows = []
    for results in all_results:
        smaller = {p for way, runs in results.runs.items() if way not in results.main() for p in runs}
        for kind, p in product(OURS, sorted(smaller)):
            ways = [*((kind, size) for size in sizes), DROPOUT]
            losses = [_loss(results, way, p) for way in ways]
            rows.append([results.task.title, kind, f"{p:g}", *losses])
    return table(["task", "kind", "p", *(f"{a} × {b}" for a, b in sizes), "dropout"], rows, left=2)


def block_times(all_results: Sequence[Results]) -> str:
    """Milliseconds of a training step by the size of blocks, where smaller ones were measured."""
    timed = [(results, [row for row in results.times() if row["block"]]) for results in all_results]
    sizes = sorted({way_of(row)[1] for _, found in timed for row in found}, reverse=True)
    rows = []
    for results, found in timed:
        smaller = {row["p"] for row in found if way_of(row)[1] != sizes[0]}
        for kind, p in product(OURS, sorted(smaller)):
            ways: list[Way] = [*((kind, size) for size in sizes), DROPOUT, ("dense", None)]
            times = [results.milliseconds(way, p) for way in ways]
            rows.append([results.task.title, kind, f"{p:g}", *(f"{ms:.3f}" if ms else "–" for ms in times)])
    return table(["task", "kind", "p", *(f"{a} × {b}" for a, b in sizes), "dropout", "dense"], rows, left=2)


def _loss(results: Results, way: Way, p: float) -> str:
    """With the number of seeds where not all were run."""
    if way not in results.runs or p not in results.runs[way]:
        return "–"
    runs, most = results.runs[way][p], max(len(runs[p]) for runs in results.runs.values() if p in runs)
    fewer = f" ({len(runs)} of {most} seeds)" if len(runs) < most else ""
    return Mean.of([validation(run, "loss") for run in runs]).text() + fewer


DROPOUT: Way = ("dropout", None)
DIFFERENCES = ("seeds", "val loss", "test loss", "test accuracy (points)", "steps to the best")


def _differences(results: Results, ours: list[Run], theirs: list[Run]) -> list[str]:
    other = {run["seed"]: run for run in theirs}
    pairs = [(run, other[run["seed"]]) for run in ours if run["seed"] in other]
    if not pairs:
        return ["0", *["–"] * 4]
    losses = [
        Mean.of([split(a, "loss") - split(b, "loss") for a, b in pairs]).text("+.3f") for split in (validation, test)
    ]
    accuracy = Mean.of([test(a, "accuracy") - test(b, "accuracy") for a, b in pairs]).text("+.2f", 100)
    steps = Mean.of([a["best_step"] - b["best_step"] for a, b in pairs]).text("+.0f")
    return [str(len(pairs)), *losses, "–" if results.task.monitor == "loss" else accuracy, steps]


def _p(results: Results, way: Way) -> str:
    return "–" if way[0] == "dense" else f"{results.best_p(way):g}"


def _steps(results: Results, way: Way) -> Mean:
    return Mean.of([run["best_step"] for run in results.best(way)])


def _paper(results: Results, way: Way) -> tuple[str, ...]:
    """The paper has one SparseDrop: Bernoulli, 128 × 128."""
    if way == ("balanced", way[1]) or way[1] not in (None, (128, 128)):
        return "", "", "", ""
    return PAPER[results.task.name]["sparsedrop" if way[0] == "bernoulli" else way[0]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    if not rows:
        return "Not run yet."
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


SECTIONS = {
    "table1": table1,
    "steps": steps,
    "against_dropout": against_dropout,
    "kinds": kinds,
    "blocks": blocks,
    "block_times": block_times,
}
