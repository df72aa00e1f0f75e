"""One picture per task: the validation metric against p, curves by step, and the loss by time."""

from __future__ import annotations

from pathlib import Path

from summary import Results, Way, label, validation

COLORS = {"dense": "#4c566a", "dropout": "#c05a2e", "bernoulli": "#7fb2dd", "balanced": "#1f6fb2"}


def draw(results: Results, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6"}
    with pyplot.rc_context(style | {"axes.axisbelow": True, "legend.frameon": False}):
        figure, (by_p, by_step, by_time) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
        monitor = results.task.monitor
        for way in results.main():
            look = {"color": COLORS[way[0]]}
            _against_p(by_p, results, way, look)
            curve = results.found["curves"].get(label(way))
            if curve:
                steps, seconds, train, loss = zip(*curve["rows"], strict=True)
                name = label(way) if way[0] == "dense" else f"{label(way)}, p = {curve['p']:g}"
                by_step.plot(steps, loss, label=name, linewidth=2, **look)
                by_step.plot(steps, train, linewidth=1, alpha=0.5, **look)
                by_time.plot(seconds, loss, linewidth=2, **look)
        by_p.set(title=f"validation {monitor} by p", xlabel="p")
        by_step.set(title="loss by step: validation, thin: training", xlabel="step")
        by_time.set(title="validation loss by time of training", xlabel="seconds")
        by_p.legend(fontsize="small")
        by_step.legend(fontsize="small")
        figure.suptitle(results.task.title)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _against_p(axis, results: Results, way: Way, look: dict[str, str]) -> None:
    """Means over seeds at the best checkpoint, with their 95 % interval where there are several."""
    metric = results.task.monitor
    ps = sorted(results.runs[way])
    means = [results.mean(way, p, lambda run: validation(run, metric)) for p in ps]
    if way[0] == "dense":
        axis.axhline(means[0].value, label=label(way), **look)
        return
    halves = [mean.half or 0.0 for mean in means]
    axis.errorbar(ps, [mean.value for mean in means], halves, label=label(way), marker="o", capsize=3, **look)
