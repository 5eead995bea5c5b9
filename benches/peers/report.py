"""Formats the table and the picture of run.py's measurements, and the description of the machine."""

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 52, 560, 40, 340
GREY = "#808080"
# Medium lightness, readable on light and dark pages.
COLORS = ["#f97316", "#d9a441", "#8b8b8b", "#ef4444", "#ec4899", "#3b82f6", "#06b6d4", "#8b5cf6", "#10b981"]


@dataclass
class Line:
    """A peer at one size: medians over the rounds, or the reason for having none."""

    peer: str
    threads: int
    size: int
    ns: float = math.nan
    ratio: float = math.nan
    p10: float = math.nan
    p90: float = math.nan
    samples: int = 0
    failure: str | None = None


def quantile(samples, share):
    return sorted(samples)[round(share * (len(samples) - 1))]


def count(elements):
    for unit, letter in ((1 << 20, " M"), (1 << 10, " K")):
        if elements % unit == 0:
            return f"{elements // unit}{letter}"
    return str(elements)


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def unique(values):
    return list(dict.fromkeys(values))


def plural(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


# The machine


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def said(*command):
    try:
        return subprocess.run(command, text=True, capture_output=True).stdout.splitlines()[0]
    except (OSError, IndexError):
        return f"no {command[0]}"


def processor():
    """Returns the fields of the first processor in /proc/cpuinfo."""
    lines = read("/proc/cpuinfo").split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def machine_name():
    """Returns the vendor and the widest vector set, such as intel-avx512."""
    about = processor()
    vendors = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
    vendor = vendors.get(about.get("vendor_id"), platform.machine())
    flags = about.get("flags", "").split()
    widest = next((name for flag, name in (("avx512f", "avx512"), ("avx2", "avx2")) if flag in flags), None)
    return f"{vendor}-{widest}" if widest else vendor


def caches():
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read(index / name) for name in ("level", "type", "size"))
        found.append(f"{size} L{level}{kind[0].lower() if kind in ('Data', 'Instruction') else ''}")
    return ", ".join(found)


def machine():
    about = processor()
    model = about.get("model name", platform.machine())
    if "cpu family" in about:
        model += f" (family {about['cpu family']}, model {about['model']}, stepping {about['stepping']})"
    memory = read("/proc/meminfo").partition("MemTotal:")[2].split("kB")[0].strip()
    pages = read("/sys/kernel/mm/transparent_hugepage/enabled").partition("[")[2].partition("]")[0]
    parts = [
        model,
        f"{os.cpu_count()} processors",
        caches(),
        f"{int(memory) >> 20} GiB of memory" if memory else "",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"transparent huge pages: {pages}" if pages else "",
        said("rustc", "--version"),
        said("g++", "--version"),
        f"Python {platform.python_version()}",
    ]
    return "; ".join(part for part in parts if part)


# The page


def page(lines, versions, command, stem, rounds):
    text = [
        "# Other optimizers beside ours",
        "",
        f"![Time of a step over the bandwidth bound]({stem}.svg)",
        "",
        f"- Command: `{command}`",
        f"- Machine: {machine()}",
        f"- One parameter of f32 without weight decay. Time of a step over the bandwidth bound, both measured in the same"
        f" round; medians of {rounds} rounds. What the peers are and how each is used: [benches/peers](../peers/README.md).",
    ]
    for threads in unique(line.threads for line in lines):
        chosen = [line for line in lines if line.threads == threads]
        text += ["", f"## {plural(threads).capitalize()}", "", *ratios(chosen, versions), ""]
        for peer in unique(line.peer for line in chosen):
            reasons = unique(line.failure for line in chosen if line.peer == peer and line.failure)
            text += [f"- {peer}: {reason}" for reason in reasons]
    text += ["", "## Every figure", "", *figures(lines), ""]
    return "\n".join(text)


def ratios(lines, versions):
    sizes = unique(line.size for line in lines)
    cells = {(line.peer, line.size): line for line in lines}
    yield "| | version | " + " | ".join(count(size) for size in sizes) + " |"
    yield "|---" * (len(sizes) + 2) + "|"
    for peer in unique(line.peer for line in lines):
        row = [cells[peer, size] for size in sizes]
        row = " | ".join("–" if line.failure else number(line.ratio) for line in row)
        yield f"| {peer} | {versions[peer]} | {row} |"


def figures(lines):
    yield "| | threads | elements | ns per element | time / limit | p10–p90 | rounds |"
    yield "|---|---|---|---|---|---|---|"
    for line in lines:
        if not line.failure:
            band = f"{number(line.p10)}–{number(line.p90)}"
            yield (
                f"| {line.peer} | {line.threads} | {count(line.size)} | {line.ns:.3f} | {number(line.ratio)} |"
                f" {band} | {line.samples} |"
            )


# The picture


def picture(lines):
    drawn = [line for line in lines if not line.failure]
    panels = unique(line.threads for line in drawn)
    colors = dict(zip(unique(line.peer for line in lines), COLORS))
    top = 10 ** math.ceil(math.log10(max([10, *(line.ratio for line in drawn)])))
    height = max(1, len(panels)) * PANEL
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' style="max-width:100%" role="img" font-family="sans-serif" font-size="12" fill="{GREY}"'
        ' aria-label="Time of a step over the bandwidth bound, by tensor size, of ours and of other optimizers">'
    ]
    for index, threads in enumerate(panels):
        svg.append(f'<g transform="translate(0 {index * PANEL})">')
        svg += panel([line for line in drawn if line.threads == threads], threads, top, colors)
        svg.append("</g>")
    return "\n".join([*svg, "</svg>", ""])


def panel(lines, threads, top, colors):
    sizes = unique(line.size for line in lines)
    step = (RIGHT - LEFT) / max(1, len(sizes) - 1)

    def x(size):
        return LEFT + step * sizes.index(size)

    def y(ratio):
        # Leave some room below 1 for points that noise makes faster than the limit.
        low, high = -0.1, math.log10(top)
        return BOTTOM - (BOTTOM - TOP) * (math.log10(max(ratio, 0.8)) - low) / (high - low)

    yield f'<text x="{LEFT}" y="20" font-size="14">Time of a step / bandwidth bound, {plural(threads)}</text>'
    for decade in range(round(math.log10(top)) + 1):
        ratio = 10**decade
        dash = "" if ratio == 1 else ' stroke-dasharray="2 4"'
        yield f'<path d="M{LEFT} {y(ratio):.1f}H{RIGHT}" stroke="{GREY}"{dash}/>'
        yield f'<text x="{LEFT - 8}" y="{y(ratio) + 4:.1f}" text-anchor="end">{ratio}</text>'
    for size in sizes:
        yield f'<text x="{x(size):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{count(size)}</text>'
    ends = []
    # Draw ours last, on top of the other peers.
    for peer in reversed(unique(line.peer for line in lines)):
        points = [(x(line.size), y(line.ratio)) for line in lines if line.peer == peer]
        color, width = colors[peer], 3 if peer == "ours" else 1.5
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'
        for across, down in points:
            yield f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{width + 0.5}" fill="{color}"/>'
        ends.append((points[-1][1], peer))
    for (down, peer), place in spread(ends):
        weight = ' font-weight="bold"' if peer == "ours" else ""
        yield f'<path d="M{RIGHT + 6} {down:.1f}L{RIGHT + 18} {place:.1f}" stroke="{colors[peer]}"/>'
        yield f'<text x="{RIGHT + 22}" y="{place + 4:.1f}" fill="{colors[peer]}"{weight}>{peer}</text>'


def spread(ends, distance=16):
    """Places each label near the end of its line, in order and without overlap."""
    placed = []
    for end in sorted(ends, reverse=True):
        limit = placed[-1][1] - distance if placed else BOTTOM + 8
        placed.append((end, min(end[0], limit)))
    return placed
