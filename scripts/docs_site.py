"""Hooks of mkdocs.yml: the pages of docs/ as a site.

The pages are written to be read in the repository, too. The navigation is docs/index.md, so that a
new page is named once. A link that leaves docs/ leads to a copy in the site (PROJECT, pictures),
else to the file in the repository.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages outside of docs/ that the site has, too.
PROJECT = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
PICTURES = (".png", ".svg")

_HEADING = re.compile(r"^##+ (.+)$")
_ENTRY = re.compile(r"^(?:- |\d+\. )\[([^\]]+)\]\(([^)#]+)")
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)


def navigation(contents: str) -> list[dict[str, Any]]:
    """The navigation that the table of contents describes: its sections and their links."""
    found: list[dict[str, Any]] = [{"Home": "index.md"}]
    for line in contents.splitlines():
        if heading := _HEADING.match(line):
            found.append({heading[1]: []})
        elif entry := _ENTRY.match(line):
            pages: list[Any] = next(iter(found[-1].values()))
            target = posixpath.normpath(entry[2])
            pages.append({entry[1]: PROJECT.get(target.removeprefix("../"), target)})
    return [section for section in found if next(iter(section.values()))]


def source_of(page: str) -> str:
    """The path in the repository of a page of the site."""
    project = {place: name for name, place in PROJECT.items()}
    return project.get(page, f"docs/{page}")


def target_of(link: str, page: str, repository: str) -> str | None:
    """Where a link on the page of the site leads instead; None if it is right as it is."""
    if "://" in link or link.startswith(("mailto:", "#")):
        return None
    source = source_of(page)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path in PROJECT:
        place = PROJECT[path]
    elif path.startswith("docs/") and not (ROOT / path).is_dir():
        place = path.removeprefix("docs/")
    elif path.endswith(PICTURES):
        place = f"pictures/{posixpath.basename(path)}"
    else:
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{repository}/{kind}/main/{path}"
    there = posixpath.relpath(place, posixpath.dirname(page) or ".")
    return None if there == posixpath.normpath(link) else there


def rewrite(markdown: str, page: str, repository: str) -> str:
    """The page with the links of target_of(). Code keeps its text."""

    def replace(found: re.Match[str]) -> str:
        target = target_of(found[2], page, repository)
        return found[0] if target is None else f"{found[1]}{target}{found[3] or ''}{found[4]}"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(replace, part) for part in parts)


def on_config(config: Any) -> Any:
    config.nav = navigation((DOCS / "index.md").read_text())
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, place in PROJECT.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    pictures = set()
    for page in [*DOCS.glob("**/*.md"), *(ROOT / name for name in PROJECT)]:
        for _, link, _, _ in _LINK.findall(page.read_text()):
            path = Path(os.path.normpath(page.parent / link))
            if link.endswith(PICTURES) and "://" not in link and not path.is_relative_to(DOCS):
                pictures.add(path)
    for path in sorted(pictures):
        place = f"pictures/{path.name}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return rewrite(markdown, page.file.src_uri, config.repo_url.rstrip("/"))
