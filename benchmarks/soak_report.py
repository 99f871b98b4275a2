"""What a soak says for itself: trends with their intervals, a page, its data, and its chart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import chart
from trend import Trend, trend

WARM_UP: Final = 0.25
"""Share of the time that does not count: caches fill, the allocator finds its size, what has a lifetime reaches its number."""
PROCESSES: Final = ("gateway", "resource")
MINDED: Final = {
    "resident memory": (1.0, "MiB"),
    "descriptors": (5.0, ""),
    "threads": (1.0, ""),
    "p50 of a round": (10.0, "ms"),
}
"""What an hour may add before somebody minds, and its unit. Memory: not a gigabyte in a month; what comes and goes: its noise."""
KINDS: Final = 8
"""Kinds of objects that the page lists, those whose number changed most."""


def line(sample: Mapping[str, Any]) -> str:
    """One sample, for whoever watches."""
    gateway, resource = sample["gateway"], sample["resource"]
    return (
        f"{sum(sample['rounds'].values())} rounds, p50 {sample['round_us']['p50'] / 1e3:.0f} ms; gateway {_mib(gateway)} MiB, "
        f"{gateway['descriptors']} descriptors, lag p99 {gateway['lag_ms']['p99']} ms; resource {_mib(resource)} MiB"
    )


def trends(samples: Sequence[Mapping[str, Any]]) -> dict[str, Trend]:
    """What could grow, per hour, after the warm-up; nothing if there are too few samples."""
    counted = settled(samples)
    if len(counted) < 3:
        return {}
    hours = [sample["second"] / 3600 for sample in counted]
    found = {}
    for process in PROCESSES:
        memory = [sample[process]["rss_kib"] / 1024 for sample in counted]
        found[f"{process}: resident memory"] = trend(hours, memory)
        for name in ("descriptors", "threads"):
            found[f"{process}: {name}"] = trend(hours, [sample[process][name] for sample in counted])
    found["p50 of a round"] = trend(hours, [sample["round_us"]["p50"] / 1e3 for sample in counted])
    return found


def settled(samples: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The samples after the warm-up."""
    return [sample for sample in samples if sample["second"] >= WARM_UP * samples[-1]["second"]]


def levels(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The median resident memory of each quarter of the time, in MiB, by process: what levels off shows it here."""
    end = samples[-1]["second"]
    quarter = [min(int(4 * sample["second"] / end), 3) for sample in samples]
    return {
        process: [
            median(
                sample[process]["rss_kib"] / 1024 for sample, at in zip(samples, quarter, strict=True) if at == number
            )
            for number in sorted(set(quarter))
        ]
        for process in PROCESSES
    }


def summary(document: Mapping[str, Any]) -> str:
    """The verdict, for the one who ran it."""
    lines = [f"{name}: {_growth(name, found)}" for name, found in trends(document["samples"]).items()]
    ledger = "verified" if document["ledger"]["verified"] else f"NOT verified: {document['ledger']['said']}"
    lines.append(
        f"ledger: {document['ledger']['bytes'] / 2**20:,.0f} MiB, {ledger} in {document['ledger']['seconds']} s"
    )
    lines += [f"FAILED {count} times: {what}" for what, count in document["failures"].items()]
    return "\n".join(lines)


def write(document: Mapping[str, Any], page: Path) -> None:
    """The page, with its data and its chart beside it."""
    page.with_suffix(".json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    page.with_suffix(".svg").write_text(picture(document))
    page.write_text(text(document, page.stem))


def picture(document: Mapping[str, Any]) -> str:
    """Memory, descriptors, lag and latency over the time."""
    samples = document["samples"]
    minutes = [sample["second"] / 60 for sample in samples]

    def of(process: str, *path: str) -> list[float]:
        return [_at(sample[process], path) for sample in samples]

    memory = {name: [kib / 1024 for kib in of(name, "rss_kib")] for name in PROCESSES}
    rounds = {mark: [sample["round_us"][mark] / 1e3 for sample in samples] for mark in ("p50", "p99")}
    return chart.series(
        "A soak at half load",
        (
            ("Resident memory, MiB", minutes, memory),
            ("Open descriptors", minutes, {name: of(name, "descriptors") for name in PROCESSES}),
            (
                "Lag of the gateway's event loop, ms",
                minutes,
                {mark: of("gateway", "lag_ms", mark) for mark in ("p50", "p99")},
            ),
            ("A round of work, ms", minutes, rounds),
        ),
    )


def text(document: Mapping[str, Any], stem: str) -> str:
    """The page."""
    samples, ledger = document["samples"], document["ledger"]
    rounds = Counter[str]()
    for sample in samples:
        rounds.update(sample["rounds"])
    grown = "\n".join(f"| {name} | {_growth(name, found)} |" for name, found in trends(samples).items())
    levelled = "\n".join(
        f"- {process}: {', '.join(f'{level:.1f}' for level in found)} MiB" for process, found in levels(samples).items()
    )
    done = ", ".join(f"{count:,} {name}" for name, count in rounds.most_common())
    failed = "\n".join(f"- {count} times: `{what}`" for what, count in document["failures"].items()) or "None."
    machine = document["machine"]
    return f"""# Soak

Written by `python benchmarks/soak.py {document["minutes"]:g} --report docs/{stem}.md`; the samples are in [{stem}.json]({stem}.json). Do not edit.

Begun {document["begun"]}: {document["minutes"]:g} minutes at {document["rounds_per_second"]:g} rounds of work a second, half of the
{document["most_rounds_per_second"]:g} that the machine did at most right before, with {machine["processors"]} processors
(load {machine["load"][0]:g} before, {machine["load"][1]:g} after) and Python {machine["python"]}.
A round is a task with one to three steps: opened, called at a resource that verifies, redeems and attests, reported, closed; some are
renewed, some denied. Workers connect anew every 50 rounds, and an operator's lock ends a step every few seconds.

![Memory, descriptors, lag and latency over the time]({stem}.svg)

## Growth an hour, after the first quarter

A least-squares line with its 95 % interval, widened by the correlation of neighbouring samples. Flat within a bound = the whole interval lies
within it, on both sides; grows = the whole interval lies above nothing, and reaches beyond the bound; unsure = the hour was too noisy to tell.

| what | an hour |
|---|---|
{grown}

Median resident memory of each quarter, the first included:

{levelled}

## Objects in memory

Live objects after the warm-up and at the end: the kinds whose number changed most.

{_objects(samples)}

## Work

Done: {done}. Failed:

{failed}

## Ledger

{ledger["bytes"] / 2**20:,.0f} MiB. `stepgrant audit verify`, {ledger["seconds"]:g} s:

```
{_lines(ledger["said"])}
```
"""


def _lines(said: str) -> str:
    """JSON on lines of its own; anything else as it is."""
    try:
        return json.dumps(json.loads(said), indent=1)
    except ValueError:
        return said.strip()


def _objects(samples: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| process | kind | after the warm-up | at the end |", "|---|---|---|---|"]
    for process in PROCESSES:
        censuses = [sample[process]["census"] for sample in settled(samples) if sample[process]["census"]]
        if not censuses:
            continue
        first, last = censuses[0], censuses[-1]
        kinds = sorted(first.keys() | last.keys(), key=lambda kind: -abs(last.get(kind, 0) - first.get(kind, 0)))
        lines += [
            f"| {process} | `{kind}` | {first.get(kind, 0):,} | {last.get(kind, 0):,} |" for kind in kinds[:KINDS]
        ]
    return "\n".join(lines)


def _growth(name: str, found: Trend) -> str:
    bound, unit = MINDED[name.rpartition(": ")[2]]
    verdict = found.verdict(bound)
    said = f"flat within {bound:g}" if verdict == "flat" else f"**{verdict}**"
    return f"{found.slope:+.2f} ± {found.margin:.2f} {unit}".rstrip() + f" ({said})"


def _mib(process: Mapping[str, Any]) -> int:
    return round(process["rss_kib"] / 1024)


def _at(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value[name]
    return value
