"""Write docs/reference/: every exported name with its signature and the first sentence of its
docstring, and every setting of a run.

    python docs/generate/reference.py            writes the pages
    python docs/generate/reference.py --check    says which are out of date, with status 1 then

Signatures are read from the sources, so that no library of an integration has to be there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

from reference_entries import Writer
from reference_pages import PAGES, Page, Section
from reference_sources import ROOT, Sources

from trpo_fast._base.arguments import MAX_INT
from trpo_fast._base.settings import Setting, declared
from trpo_fast.train.config import groups

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate/reference.py: make reference. -->\n"
SHOWN = {"least": "at least", "most": "at most", "above": "above", "below": "below"}


def placed(sources: Sources) -> dict[str, list[Section]]:
    """The sections of every page, each with its names: those of ``trpo_fast`` that are in none
    come in one more, on the page of their room.
    """
    named = {name for page in PAGES for s in page.sections for name in s.names.split()}
    further = [name for name in sources.exported("trpo_fast") if name not in named]
    found = {}
    for page in PAGES:
        sections = [
            s if s.names else s._replace(names=" ".join(sources.exported(s.module)))
            for s in page.sections
        ]
        rooms = [f"trpo_fast.{room}." for room in page.rooms]
        rest = [n for n in further if sources.find("trpo_fast", n).module.startswith(tuple(rooms))]
        if rest:
            sections.append(Section("Others", "trpo_fast", " ".join(rest)))
        found[page.file] = sections
    return found


def written(page: Page, sections: list[Section], writer: Writer) -> str:
    """A page as text."""
    lines = [f"# {page.title}\n", NOTE, page.about]
    for section in sections:
        lines += [f"\n## {section.title}\n", f"From `{section.module}`.\n"]
        for name in section.names.split():
            lines.append(writer.entry(name, writer.sources.find(section.module, name)))
    return "\n".join(lines).rstrip() + "\n"


def contents(found: dict[str, list[Section]]) -> str:
    """The first page: all names, by page and section."""
    lines = ["# Reference\n", NOTE, "Every exported name; `help(NAME)` in Python says more of it."]
    lines += ["The settings of a run are a page of their own: [settings](settings.md)."]
    for page in PAGES:
        lines += [f"\n## [{page.title}]({page.file})\n"]
        for section in found[page.file]:
            names = section.names.split()
            links = ", ".join(f"[`{name}`]({page.file}#{name.lower()})" for name in names)
            lines.append(f"- {section.title} (`{section.module}`): {links}")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Every setting of a run in a table for each group."""
    lines = ["# Settings\n", NOTE, "Arguments of `TRPO` and `Config`, flags of `trpo-fast train`"]
    lines += ["(`--max-kl` for `max_kl`), names in a TOML file. Environments may have other"]
    lines += [
        "defaults: `trpo-fast train ENV --help` shows them. A setting that only another policy"
    ]
    lines += ["uses, such as `cell_width` beside `policy='mlp'`, is refused."]
    for name, group in groups().items():
        lines += [f"\n## {name}\n", f"{' '.join(group.__doc__.split())}\n"]
        lines += ["| setting | values | default | |", "|---|---|---|---|"]
        lines += [" | ".join(row(setting)) for setting in declared(group).values()]
    return "\n".join(lines) + "\n"


def row(setting: Setting) -> Iterator[str]:
    """The cells of a setting."""
    kind = getattr(setting.kind, "__name__", str(setting.kind))
    values = ", ".join(setting.choices) or kind
    bounds = {k: v for k, v in setting.bounds.items() if k in SHOWN and v < MAX_INT}
    words = [values, *(f"{SHOWN[k]} {v:g}" for k, v in bounds.items())]
    words += ["or none"] * setting.optional
    yield from (
        f"| `{setting.name}`",
        ", ".join(words),
        f"`{setting.default!r}`",
        f"{setting.help} |".replace("||", r"\|\|"),
    )


@functools.cache
def pages() -> dict[str, str]:
    """The text of every page by its file."""
    sources = Sources()
    writer, found = Writer(sources), placed(sources)
    made = {page.file: written(page, found[page.file], writer) for page in PAGES}
    return {"README.md": contents(found), "settings.md": settings_page(), **made}


def outdated() -> list[str]:
    """The files that are not what would be written."""
    wanted, there = pages(), {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def main(check: bool) -> int:
    stale = outdated()
    if check:
        print("\n".join(f"docs/reference/{name}: out of date, make reference" for name in stale))
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
