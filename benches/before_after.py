#!/usr/bin/env python3
"""Compares two builds of `lion bench` line by line and prints a Markdown table.

    benches/before_after.py BEFORE AFTER [ROUNDS]

Each round runs every case with both builds. The build that runs first alternates between rounds. A line's figure is
the median over the rounds of after / before. Both times are medians over their calls. Cases with large tensors run in
one of three rounds, because their calls take long.
"""
import json
import os
import subprocess
import sys
from statistics import median

FORMATS = "f32,bf16,f16"
# The options of a case, and the number of rounds out of three that run it.
CASES = [
    (["--sizes", "1K,16K,256K,4M", "--seconds", "0.1"], 3),
    (["--sizes", "1K,16K,256K,4M", "--seconds", "0.1", "--pipeline", "full"], 3),
    (["--tensors", "2000x4096", "--seconds", "0.1"], 3),
    (["--tensors", "2000x4096", "--seconds", "0.1", "--pipeline", "full"], 3),
    (["--sizes", "64M", "--seconds", "0"], 1),
    (["--sizes", "64M", "--seconds", "0", "--pipeline", "full"], 1),
    (["--model", "gpt2", "--seconds", "0"], 1),
    (["--model", "gpt2", "--seconds", "0", "--pipeline", "full"], 1),
]


def lines(build, options):
    command = [build, "bench", "--json", "--dtypes", FORMATS, "--threads", "1,2", *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in map(json.loads, output.splitlines()):
        tensors = f"{line['tensors']} tensors, {line['elements']:,}" if line["tensors"] > 1 else f"{line['elements']:,}"
        yield (line["pipeline"], line["param"], tensors, line["threads"]), line


def main():
    builds, rounds = sys.argv[1:3], int(sys.argv[3]) if len(sys.argv) > 3 else 15
    builds = [os.path.abspath(build) for build in builds]
    times = {}
    for number in range(rounds):
        for options, often in CASES:
            if number % 3 >= often:
                continue
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                for key, line in lines(builds[which], options):
                    entry = times.setdefault(key, ([], [], []))
                    entry[which].append(line["ns_per_element"])
                    if which == 1:
                        entry[2].append(line["samples"])
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    print("| pipeline | format | elements | threads | after / before | quartiles | calls |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: |")
    for (pipeline, format, elements, threads), (before, after, samples) in times.items():
        ratios = sorted(b / a for a, b in zip(before, after))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        middle = median(ratios)
        print(f"| {pipeline} | {format} | {elements} | {threads} | {middle:.3f} | {low:.2f}–{high:.2f} | {sum(samples)} |")


if __name__ == "__main__":
    main()
