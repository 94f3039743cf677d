"""The pages of the documentation lead to one another."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import runai_model_streamer
from benchmarks import front, report
from scripts import docs_site

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A file or directory of the tree; the results of a build are not in it.
PATH = re.compile(
    r"`((?:benchmarks|cmake|cpp|docs|examples|packages|python|scripts|tests)/[\w./-]+)`"
)


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_pages_have_a_target(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_the_pages_imports_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "runai_model_streamer":
                assert not {alias.name for alias in node.names} - set(runai_model_streamer.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_the_pages_name_exist(page: Path) -> None:
    named = PATH.findall(page.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_that_the_pages_name_exist(page: Path) -> None:
    makefiles = [ROOT / "Makefile", *ROOT.glob("scripts/*.mk")]
    targets = set(re.findall(r"^([\w-]+):", "\n".join(map(Path.read_text, makefiles)), re.M))
    named = re.findall(r"(?:^|`)make ((?:[a-z][a-z0-9-]+ ?)+)", page.read_text(), re.M)
    assert not {target for targets_named in named for target in targets_named.split()} - targets


def test_the_diagram_of_the_structure_has_the_arrows_of_the_includes() -> None:
    page = (ROOT / "docs" / "internals" / "architecture.md").read_text()
    shown = set(re.findall(r"^  (\w+) --> (\w+)$", page, re.M))
    source = ROOT / "cpp" / "src"
    rooms = {"bindings": ROOT / "cpp" / "bindings"}
    rooms |= {path.name: path for path in source.iterdir() if path.is_dir()}
    included = {
        (room, include)
        for room, directory in rooms.items()
        for file in [*directory.rglob("*.h"), *directory.rglob("*.cc")]
        for include in re.findall(r'^#include "(\w+)/', file.read_text(), re.M)
        if include in rooms and include != room
    }
    assert shown == included


def test_code_that_the_internals_name_exists() -> None:
    files = [*ROOT.glob("cpp/**/*.h"), *ROOT.glob("cpp/**/*.cc"), *ROOT.glob("python/**/*.py")]
    files += ROOT.glob("tests/**/*.py")
    words = set(re.findall(r"\w+", " ".join(file.read_text() for file in files)))
    for page in (ROOT / "docs" / "internals").glob("*.md"):
        named = re.findall(r"`([A-Za-z_]\w*(?:(?:::|\.)\w+)*)(?:\(\))?`", page.read_text())
        code = [name for name in named if not name.endswith(".md")]
        parts = {part for name in code for part in re.split(r"::|\.", name)}
        assert not parts - words, page.name


def test_links_to_decisions_have_their_numbers() -> None:
    links = [
        (page.name, int(number), int(file))
        for page in PAGES
        for number, file in re.findall(
            r"\[decision (\d+)\]\((?:[\w./]*/)?(\d{3})-[\w-]+\.md\)", page.read_text()
        )
    ]
    assert len(links) > 10
    assert not [link for link in links if link[1] != link[2]]


def test_every_page_is_linked_from_the_table_of_contents() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / link.partition("#")[0]).resolve()
        for link in LINK.findall(index.read_text())
        if "://" not in link
    }
    assert not {page for page in ROOT.glob("docs/**/*.md") if page != index} - linked


def urls() -> dict[str, str]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("\n[project.urls]\n")[2].partition("\n\n")[0]
    return dict(re.findall(r'^(\w+) = "(.+)"$', section, re.M))


def test_links_of_the_readme_are_absolute_and_lead_somewhere() -> None:
    """The page of a package index has no files beside it."""
    repository, site = urls()["Repository"], urls()["Documentation"]
    links = LINK.findall((ROOT / "README.md").read_text())
    assert f"{repository}/blob/main/docs/index.md" in links
    files = repository.replace("//github.com/", "//raw.githubusercontent.com/")
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith((f"{repository}/blob/main/", f"{files}/main/")):
            assert (ROOT / link.partition("/main/")[2]).is_file(), link
        elif link.startswith(f"{repository}/actions/workflows/"):
            name = link.removeprefix(f"{repository}/actions/").removesuffix("/badge.svg")
            assert (ROOT / ".github" / name).is_file(), link
        elif link.startswith(site):
            page = link.removeprefix(site).strip("/") or "index"
            assert (ROOT / "docs" / f"{page}.md").is_file(), link


def test_the_address_of_the_repository_is_the_same_everywhere() -> None:
    repository, site = urls()["Repository"], urls()["Documentation"]
    config = (ROOT / "mkdocs.yml").read_text()
    assert f"\nrepo_url: {repository}\n" in config and f"\nsite_url: {site}\n" in config
    assert all(url.startswith((repository, site)) for url in urls().values())
    forms = (ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text()
    assert repository in forms and site in forms
    for page in PAGES:
        for found in re.findall(r"https://github\.com/model-streamer[\w./-]*", page.read_text()):
            assert found.startswith(repository), page


@pytest.mark.parametrize("name", ["local", "s3", "clouds", "dist"])
def test_the_tables_of_the_benchmarks_are_those_of_the_results(name: str) -> None:
    results = json.loads((report.RESULTS / f"{name}.json").read_text())
    assert report.section(name, results) in report.PAGE.read_text()


def test_the_chart_of_the_readme_shows_the_results() -> None:
    assert front.CHART.read_text() == front.svg()


def test_figures_of_the_readme_are_on_the_page_of_the_benchmarks() -> None:
    section = (ROOT / "README.md").read_text().partition("## Comparison\n")[2].partition("\n## ")[0]
    rows = [row.partition("|")[2] for row in re.findall(r"^\| [^|]+(.*)$", section, re.M)[1:]]
    figures = re.findall(r"\d+\.\d+|\d{3,}", " ".join(rows))
    assert len(figures) > 20
    page = report.PAGE.read_text()
    assert not [figure for figure in figures if not re.search(rf"(?<![.\d]){figure}(?!\d)", page)]


def test_a_version_of_the_changelog_has_each_section_once() -> None:
    for version in re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1:]:
        sections = re.findall(r"^### (.+)$", version, re.M)
        assert len(sections) == len(set(sections)), version.partition("\n")[0]


def test_the_navigation_of_the_site_has_every_page() -> None:
    contents = (ROOT / "docs" / "index.md").read_text()
    sections = docs_site.navigation(contents)
    pages = {"index.md"}
    for section in sections[1:]:
        for entries in section.values():
            pages |= {page for entry in entries for page in entry.values()}
    there = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert pages == there | set(docs_site.PROJECT.values())


@pytest.mark.parametrize(
    ("link", "page", "target"),
    [
        ("s3.md", "guides/usage.md", None),
        ("https://example.org/a.md", "guides/usage.md", None),
        ("../../SECURITY.md", "guides/install.md", "../project/security.md"),
        ("docs/benchmarks.md", "project/contributing.md", "../benchmarks.md"),
        ("../benchmarks/results/s3.png", "benchmarks.md", "pictures/s3.png"),
        (
            "../../examples/c/restore.c",
            "guides/a.md",
            "https://host/blob/main/examples/c/restore.c",
        ),
        ("decisions/", "internals/a.md", "https://host/tree/main/docs/internals/decisions"),
    ],
)
def test_links_that_leave_the_site_lead_to_the_repository(
    link: str, page: str, target: str | None
) -> None:
    assert docs_site.target_of(link, page, "https://host") == target
    text = f"```\n[a]({link})\n```\n[a]({link}#b)"
    there = f"```\n[a]({link})\n```\n[a]({target or link}#b)"
    assert docs_site.rewrite(text, page, "https://host") == there


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    named = re.findall(r"^::: runai_model_streamer\.(\w+)$", page, re.M)
    assert sorted(named) == sorted(set(runai_model_streamer.__all__) - {"__version__"})
