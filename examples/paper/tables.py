"""The tables of README.md, made from results and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from summary import Mean, Results, Run, Way, label, test, validation

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
    """Best p by the validation set; accuracy and loss are of one checkpoint, the one that early stopping chose."""
    head = ["task", "method", "best p", "seeds", "val accuracy", "val loss", "test accuracy", "test loss"]
    head += ["paper: p", "val accuracy", "val loss"]
    rows = []
    for results in all_results:
        for way in results.ways():
            runs = results.best(way)
            cells = [results.task.title, label(way), _p(results, way), str(len(runs))]
            for split in (validation, test):
                accuracy = Mean.of([split(run, "accuracy") for run in runs]).text(".2f", 100)
                cells.append("–" if results.task.monitor == "loss" else accuracy)
                cells.append(Mean.of([split(run, "loss") for run in runs]).text())
            rows.append([*cells, *_paper(results, way)[:3]])
    return _table(head, rows, left=2)


def steps(all_results: Sequence[Results]) -> str:
    """A faster step is no gain if it takes more of them: steps to the best checkpoint, times a step's time."""
    head = ["task", "method", "p", "steps to the best", "of dropout's", "steps to the stop", "ms a step", "of dense"]
    head += ["seconds to the best", "to the stop", "paper: minutes to the stop"]
    rows = []
    for results in all_results:
        theirs = _steps(results, DROPOUT) if DROPOUT in results.runs else None
        dense = results.milliseconds(("dense", None), 0.0)
        for way in results.ways():
            runs, own = results.best(way), results.milliseconds(way, results.best_p(way))
            to_best = Mean.of([run["best_step"] for run in runs])
            to_stop = Mean.of([run["steps"] for run in runs])
            share = f"{to_best.value / theirs.value:.2f}" if theirs else "–"
            timed = ["–"] * 4
            if own and dense:
                seconds = [f"{count.value * own / 1e3:.1f}" for count in (to_best, to_stop)]
                timed = [f"{own:.3f}", f"{own / dense:.2f}", *seconds]
            cells = [results.task.title, label(way), _p(results, way), to_best.text(".0f"), share, to_stop.text(".0f")]
            rows.append([*cells, *timed, _paper(results, way)[3]])
    return _table(head, rows, left=2)


def against_dropout(all_results: Sequence[Results]) -> str:
    """SparseDrop minus dropout, each at its best p, in pairs of one seed: the same data, weights and batches."""
    rows = []
    for results in all_results:
        for way in results.ways():
            if way[1] and DROPOUT in results.runs:
                cells = [results.task.title, label(way), f"{_p(results, way)} − {_p(results, DROPOUT)}"]
                rows.append([*cells, *_differences(results, results.best(way), results.best(DROPOUT))])
    return _table(["task", "method", "p", *DIFFERENCES], rows, left=2)


def kinds(all_results: Sequence[Results]) -> str:
    """Balanced minus Bernoulli at the same p and block, in pairs of one seed."""
    rows = []
    for results in all_results:
        for way in results.ways():
            other = ("bernoulli", way[1])
            if way[0] == "balanced" and way[1] and other in results.runs:
                size = f"{way[1][0]} × {way[1][1]}"
                for p in sorted(set(results.runs[way]) & set(results.runs[other])):
                    found = _differences(results, results.runs[way][p], results.runs[other][p])
                    rows.append([results.task.title, size, f"{p:g}", *found])
    return _table(["task", "block", "p", *DIFFERENCES], rows, left=1)


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    if not rows:
        return "Not run yet."
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


SECTIONS = {"table1": table1, "steps": steps, "against_dropout": against_dropout, "kinds": kinds}
