"""Turns logs into results, and results into the tables and pictures of README.md.

python examples/paper/report.py --logs out/paper          collects the logs into results/, then writes README.md anew
python examples/paper/report.py --logs out/paper --keep   beside the runs that results/ has and the logs have not
python examples/paper/report.py                           only writes README.md
python examples/paper/report.py --check                   changes nothing; fails where README.md is not up to date
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import figures
import sparsity
from logs import name_of, read
from summary import Results, label
from tables import SECTIONS
from tasks import TASKS, UserError

from torch_sparsedrop.cli import machine

HERE = Path(__file__).parent
SECTION = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
OWN = ("method", "block", "p", "seed")
SPEED = ("layers", "models")
"""Sections that speed.py's results fill."""


def collect(task: str, folder: Path, before: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The finished runs of one task, their shared configuration, and the curves of those that the tables show.

    Runs of earlier results, ``before``, are kept unless the logs have them too.
    """
    runs, curves, shared, machines = [], {}, None, []
    for path in sorted(folder.glob("*.jsonl")):
        records = read(path)
        if not records or "end" not in records[-1]:
            continue
        config = records[0]["config"]
        rest = {key: value for key, value in config.items() if key not in OWN}
        shared = shared or rest
        if rest != shared:
            changed = [key for key in rest if rest[key] != shared.get(key)]
            raise UserError(
                f"{path} differs from the other logs in {', '.join(changed)}: one folder, one configuration"
            )
        evaluations = records[1:-1]
        watched = {"watched": [record[config["monitor"]] for record in evaluations]}
        lowest = {"lowest_loss": min((r["loss"] for r in evaluations if r["loss"] is not None), default=None)}
        runs.append({**{key: config[key] for key in OWN}, **records[-1], **lowest, **watched})
        curves[path.stem] = [[r["step"], r["seconds"], r["train_loss"], r["loss"]] for r in evaluations]
        machines.append(machine.line(config["device"], found=records[0]["machine"]))
    if before and (folder / "times.json").exists():
        shared = shared or before["config"]
    if not shared:
        return None
    found = {"task": task, "config": shared, "machines": sorted(set(machines)), "runs": runs, "curves": {}}
    for name in ("times", "walls"):
        if (file := folder / f"{name}.json").exists():
            found[name] = json.loads(file.read_text())
    if before:
        keep(found, before, folder)
    results = Results(found)
    for way in results.main():
        run, name = results.best(way)[0], label(way)
        curve = {"p": run["p"], "seed": run["seed"], "rows": curves.get(stem(run))}
        shown = before["curves"].get(name) if before and not curve["rows"] else curve
        # Of runs that only earlier results hold, there are the curves shown then.
        if shown and shown["p"] == run["p"] and shown["seed"] == run["seed"]:
            found["curves"][name] = shown
    return found


def keep(found: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    """Adds to ``found`` what only ``before`` has."""
    new, old = found["config"], before["config"]
    changed = [key for key in {**new, **old} if new.get(key) != old.get(key)]
    if changed:
        raise UserError(f"{folder} differs from the results to keep in {', '.join(changed)}: leave out --keep")
    collected = {stem(run) for run in found["runs"]}
    found["runs"] += [run for run in before["runs"] if stem(run) not in collected]
    found["runs"].sort(key=stem)
    found["machines"] = sorted({*found["machines"], *before["machines"]})
    if "times" in before:
        found.setdefault("times", before["times"])
    if "walls" in before:
        added = [wall for wall in found.get("walls", []) if wall not in before["walls"]]
        found["walls"] = [*before["walls"], *added]


def stem(run: dict[str, Any]) -> str:
    return name_of(*(run[key] for key in OWN))


def load(folder: Path) -> list[Results]:
    files = [folder / f"{name}.json" for name in TASKS]
    return [Results(json.loads(file.read_text())) for file in files if file.exists()]


def what_ran(all_results: Sequence[Results]) -> str:
    """Runs, machine and version; and every setting in which a run was not the paper's."""
    lines = []
    for results in all_results:
        found, own = results.found, asdict(results.task)
        changed = [
            f"{key} = {found['config'].get(key)} for {own[key]}" for key in own if found["config"].get(key) != own[key]
        ]
        note = f" **Not the experiment as described: {', '.join(changed)}.**" if changed else ""
        lines.append(
            f"- {results.task.title}: {len(found['runs'])} runs, {found['config']['precision']}, "
            f"{sum(run['seconds'] for run in found['runs']) / 60:.1f} minutes of training steps{_walls(found)}; "
            f"{'; '.join(found['machines'])}.{note}"
        )
    return "\n".join(lines) or "Nothing has been run yet."


def _walls(found: dict[str, Any]) -> str:
    """What it took in all, by tier; from the starts of the processes to their ends."""
    by_tier: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for wall in found.get("walls", []):
        by_tier[wall["tier"]].append(wall)
    told = [
        f", {f'tier {tier}' if tier else 'others'} in all {sum(w['seconds'] for w in walls) / 60:.1f} minutes for "
        f"{sum(w['runs'] for w in walls)} runs"
        for tier, walls in by_tier.items()
    ]
    return "".join(told)


def fill(text: str, folder: Path) -> str:
    """``text`` with every section made anew from the results in ``folder``."""
    all_results = load(folder)
    sections = {**SECTIONS, "runs": what_ran, "figures": pictures}

    def section(match: re.Match[str]) -> str:
        if match[2] in SPEED:
            return f"{match[1]}{sparsity.section(folder, match[2])}\n{match[3]}"
        if match[2] not in sections:
            raise UserError(f"no section is called {match[2]!r}; there are {', '.join([*sections, *SPEED])}")
        return f"{match[1]}{sections[match[2]](all_results)}\n{match[3]}"

    return SECTION.sub(section, text)


def pictures(all_results: Sequence[Results]) -> str:
    return "\n\n".join(f"![{r.task.title}](results/{r.task.name}.png)" for r in all_results) or "Not run yet."


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="the --out folder of train.py")
    parser.add_argument("--keep", action="store_true", help="the runs in --results that the logs do not have")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(given)
    try:
        if options.logs:
            options.results.mkdir(parents=True, exist_ok=True)
            kept = {results.task.name: results.found for results in load(options.results)} if options.keep else {}
            found = {name: collect(name, options.logs / name, kept.get(name)) for name in TASKS}
            speed = [path for what in SPEED if (path := options.logs / f"{what}.json").exists()]
            if not any(found.values()) and not speed:
                raise UserError(f"no finished runs in {options.logs}")
            for path in speed:
                shutil.copy(path, options.results)
            for name, result in found.items():
                if result:
                    (options.results / f"{name}.json").write_text(dumps(result))
        before = options.readme.read_text()
        after = fill(before, options.results)
    except UserError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    if options.check:
        return int(before != after)
    options.readme.write_text(after)
    for what in SPEED:
        sparsity.draw(options.results, what)
    for results in load(options.results):
        figures.draw(results, options.results / f"{results.task.name}.png")
    return 0


def dumps(result: dict[str, Any]) -> str:
    """JSON with one run, or one point of a curve, per line."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"\n {3,}(?=[^ ])", " ", text).replace("\n  ]", " ]").replace("\n  }", " }") + "\n"


if __name__ == "__main__":
    sys.exit(main())
