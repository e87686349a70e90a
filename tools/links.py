"""Check the relative links, anchors and module names in the Markdown pages.

    .venv/bin/python tools/links.py

Prints each broken reference with its page and line, and exits 1 if there is one. Three kinds are
checked: a link to a file, a link to a heading, and a module or SQL file in backticks.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
FILE_NAME = re.compile(r"`((?:[\w-]+/)+[\w-]+\.(?:py|sql))`")
FENCE = ("```", "~~~")


def pages() -> list[Path]:
    return sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").rglob("*.md"),
            *ROOT.glob(".github/*.md"),
            *ROOT.glob("examples/*.md"),
        ]
    )


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a page that are outside code blocks."""
    in_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith(FENCE):
            in_code = not in_code
        elif not in_code:
            yield number, line


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    seen: Counter[str] = Counter()
    found = set()
    for _, line in prose(page):
        if heading := HEADING.match(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return frozenset(found)


def link_problem(page: Path, link: str) -> str | None:
    """Return why a link is broken, or None if it is not."""
    if re.match(r"[a-z]+:", link):
        return None
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return f"no file {name}"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return f"no heading for #{anchor} in {target.relative_to(ROOT)}"
    return None


def broken_references() -> Iterator[str]:
    """Yield one line for each broken reference of any page."""
    for page in pages():
        for number, line in prose(page):
            problems = [
                problem for link in LINK.findall(line) if (problem := link_problem(page, link))
            ]
            problems += [
                f"no file {name}"
                for name in FILE_NAME.findall(line)
                if not any((folder / name).exists() for folder in (ROOT, ROOT / "magnetis_dagster"))
            ]
            yield from (f"{page.relative_to(ROOT)}:{number}: {problem}" for problem in problems)


def main() -> int:
    broken = list(broken_references())
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
