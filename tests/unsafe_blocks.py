#!/usr/bin/env python3
"""Writes tests/unsafe_blocks.md: a table of the unsafe code of each file, with the facts that make it sound.

    tests/unsafe_blocks.py            writes the table
    tests/unsafe_blocks.py --check    fails if the committed table does not match the sources

The script finds blocks, implementations and functions by their keywords. The facts are the SAFETY comment above. For a
function they are the "# Safety" section of its documentation, which its callers uphold. Missing facts are an error.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "unsafe_blocks.md"
HEAD = """# Unsafe code

Every piece of unsafe code in the workspace, by the room that it is in, with the facts that make it sound: what its
SAFETY comment says, or for a function what its callers uphold. Elsewhere the compiler denies unsafe code. Made by
`tests/unsafe_blocks.py`; do not edit.
"""
KINDS = [
    ("function", re.compile(r"\bunsafe (?:extern \"[^\"]*\" )?fn (\w+)")),
    ("implementation", re.compile(r"\bunsafe impl\b(.*?)\{")),
    ("block", re.compile(r"\bunsafe \{")),
]


def sources():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs"], cwd=ROOT, text=True, check=True,
        capture_output=True,
    ).stdout
    return sorted(path for path in listed.split("\n") if path and (ROOT / path).exists())


def statement_starts(lines, at):
    """Yields the line, and the lines above it on which the same statement may begin."""
    while at >= 0:
        yield at
        text = lines[at - 1].strip() if at else ""
        if not text or text.endswith((";", "{", "}", ",")) or text.startswith("//"):
            return
        at -= 1


def comment_above(lines, at):
    """Returns the comment directly above a line, without attributes."""
    found = []
    for line in reversed(lines[:at]):
        text = line.strip()
        if text.startswith("#["):
            continue
        if not text.startswith("//"):
            break
        found.insert(0, text.lstrip("/").strip())
    return " ".join(found)


def facts(lines, at, kind):
    for start in statement_starts(lines, at):
        above = comment_above(lines, start)
        if kind == "function" and "# Safety" in above:
            return above.split("# Safety", 1)[1].split(" # ")[0].strip()
        if "SAFETY:" in above:
            return above.split("SAFETY:", 1)[1].strip()
    return None


def enclosing(lines, at):
    """Returns the name of the function or macro around a line."""
    for line in reversed(lines[: at + 1]):
        found = re.search(r"\bfn (\w+)", line)
        if found and not line.strip().startswith("//"):
            return found.group(1)
        if re.match(r"\s*macro_rules! (\w+)", line):
            return re.match(r"\s*macro_rules! (\w+)", line).group(1) + "!"
    return ""


def code(line):
    """Returns a line without its comment."""
    return line.split("//", 1)[0]


def implements_a_trait(lines, at):
    """Tells whether a method implements a trait. Its contract is then in the trait's declaration."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    for start in range(at - 1, -1, -1):
        line = lines[start]
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            statement = " ".join(lines[first] for first in reversed(list(statement_starts(lines, start))))
            return re.match(r"\s*(unsafe )?impl\b.* for ", statement) is not None
    return False


def pieces(path):
    lines = (ROOT / path).read_text().split("\n")
    for at, line in enumerate(lines):
        for kind, pattern in KINDS:
            found = pattern.search(code(line))
            if not found:
                continue
            why = facts(lines, at, kind)
            if kind == "function":
                if implements_a_trait(lines, at):
                    continue
                name = found.group(1)
            elif kind == "implementation":
                name = found.group(1).strip()
            else:
                name = enclosing(lines, at)
            yield at + 1, kind, name, why


def table():
    parts, missing = [HEAD], []
    for path in sources():
        rows = list(pieces(path))
        if not rows:
            continue
        missing += [f"{path}:{line}: unsafe {kind} without its facts" for line, kind, _, why in rows if not why]
        parts.append(f"\n## {path}\n\n| in | what | rests on |\n|---|---|---|")
        grouped = {}
        for _, kind, name, why in rows:
            grouped[(name, kind, why or "")] = grouped.get((name, kind, why or ""), 0) + 1
        for (name, kind, why), count in grouped.items():
            times = f", {count} times" if count > 1 else ""
            parts.append(f"| `{name}` | {kind}{times} | {why.replace('|', chr(92) + '|')} |")
    return "\n".join(parts) + "\n", missing


def main():
    text, missing = table()
    for line in missing:
        print(line, file=sys.stderr)
    if missing:
        return 1
    if "--check" in sys.argv[1:]:
        if not TABLE.exists() or TABLE.read_text() != text:
            print("tests/unsafe_blocks.md is not that of the sources: run tests/unsafe_blocks.py", file=sys.stderr)
            return 1
        return 0
    TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
