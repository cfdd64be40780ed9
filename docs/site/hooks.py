"""What the site needs beside MkDocs: folders in the navigation, links out of `docs/`, mathematics, and a network check.

Pages link to any file of the repository by its relative path, as they are read there. The site takes such a file
along as a page. Formulas become MathML, which browsers draw by themselves. The built site asks the network for nothing.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
MATH = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//|<link\b[^>]*\bhref=["']?https?://"""
)
API = "reference/api/"
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".txt": "text", ".cff": "yaml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = _expanded(config.nav)
    beside = [path.name for path in sorted(DOCS.glob("*.md")) if path.name not in _named(config.nav)]
    config.nav += [{"More": beside}] if beside else []
    return config


def _named(nav: Any) -> set[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        return {nav}
    return {page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _named(entry)}


def _expanded(nav: Any) -> Any:
    """The navigation with the pages of a folder in place of its name; a folder that is not there is left out."""
    if isinstance(nav, dict):
        return {title: _expanded(entry) for title, entry in nav.items()}
    if isinstance(nav, str):
        return _pages_of(nav) if nav.endswith("/") else nav
    entries: list[Any] = []
    for entry in nav:
        found = _expanded(entry)
        if found != [] and found != {next(iter(entry), ""): []}:
            entries += found if isinstance(found, list) else [found]
    return entries


def _pages_of(folder: str) -> list[str]:
    pages = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
    if folder == API:
        return [f"{API}{room}.md" for room in _public_names()]
    index = folder + "index.md"
    if index not in pages:
        return pages
    named = [folder + link["target"] for link in LINK.finditer((DOCS / index).read_text())]
    return list(dict.fromkeys([index, *(page for page in named if page in pages), *pages]))


def _public_names() -> dict[str, list[str]]:
    """room of the package → the dotted places of its public names, as `fittedq/__init__.py` imports them."""
    tree = ast.parse((ROOT / "src" / "fittedq" / "__init__.py").read_text())
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fittedq."):
            room = str(node.module).split(".")[1]
            found.setdefault(room, []).extend(f"{node.module}.{name.name}" for name in node.names)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "api", item[0] != "agent", item[0])))


def _names_page(room: str, places: list[str]) -> str:
    """The public names of a room, each with its signature and docstring."""
    base = ROOT / "src" / "fittedq" / room
    about = ast.get_docstring(
        ast.parse((base / "__init__.py" if base.is_dir() else base.with_suffix(".py")).read_text())
    )
    return "\n\n".join([f"# {room}", (about or "").split("\n\n")[0], *(f"::: {place}" for place in places)]) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages for the public names, and for the files beside `docs/` that pages link to."""
    for room, places in _public_names().items():
        files.append(File.generated(config, f"{API}{room}.md", content=_names_page(room, places)))
    return _taken_along(files, config)


def _taken_along(files: Files, config: MkDocsConfig) -> Files:
    """The files beside `docs/` that pages link to, and those that they link to in turn, each as a page."""
    open_pages = {PurePosixPath("docs", file.src_uri): file.content_string for file in files.documentation_pages()}
    taken: set[PurePosixPath] = set()
    while open_pages:
        page, text = open_pages.popitem()
        for link in LINK.finditer(text):
            path = _outside(page, link["target"])
            if path is not None and path not in taken:
                taken.add(path)
                content = _as_page(path)
                files.append(_file(path, content, config))
                if path.suffix == ".md":
                    open_pages[path] = content
    return files


def _outside(page: PurePosixPath, target: str) -> PurePosixPath | None:
    """The path in the repository that a page's link names, where it is a file or folder that stands outside `docs/`."""
    if ":" in target or target.startswith("/"):
        return None
    path = Path(ROOT, page.parent, target).resolve()
    if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT) or not path.exists():
        return None
    return PurePosixPath(path.relative_to(ROOT).as_posix())


def _place(path: PurePosixPath) -> str:
    """Where a file of the repository stands among the site's sources."""
    if path.suffix in (".md", ".png"):
        return f"repository/{path}"
    return f"repository/{path}.md"


def _as_page(path: PurePosixPath) -> str:
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if not child.name.startswith(("_", ".")))
        return "\n".join([f"# {path}", "", *(f"- `{name}`" for name in names)])
    if path.suffix == ".png":
        return ""
    text = file.read_text()
    return text if path.suffix == ".md" else f"# {path}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"


def _file(path: PurePosixPath, content: str, config: MkDocsConfig) -> File:
    if path.suffix == ".png":
        return File.generated(config, _place(path), abs_src_path=str(ROOT / path))
    file = File.generated(config, _place(path), content=content)
    file.inclusion = file.inclusion.NOT_IN_NAV
    return file


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave `docs/`, or come back into it from a page of the repository, name the page of the site."""
    place = PurePosixPath(page.file.src_uri)
    beside = place.parts[0] == "repository"
    source = PurePosixPath(*place.parts[1:]) if beside else PurePosixPath("docs", place)

    def moved(link: re.Match[str]) -> str:
        target, anchor = link["target"], link["anchor"] or ""
        path = _outside(source, target)
        if path is not None:
            return f"]({_relative(_place(path), place)}{anchor})"
        inside = Path(ROOT, source.parent, target).resolve()
        if beside and ":" not in target and inside.is_relative_to(DOCS) and inside.is_file():
            return f"]({_relative(inside.relative_to(DOCS).as_posix(), place)}{anchor})"
        return link[0]

    return LINK.sub(moved, markdown)


def _relative(target: str, place: PurePosixPath) -> str:
    return "../" * (len(place.parts) - 1) + target


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def drawn(match: re.Match[str]) -> str:
        formula = html.unescape(match[2]).strip()
        return convert(formula[2:-2], display="block" if match[1] == "div" else "inline")

    return MATH.sub(drawn, content)


def on_post_build(config: MkDocsConfig) -> None:
    """A page that would ask the network for something is an error."""
    for page in Path(config.site_dir).rglob("*.html"):
        found = FETCHED.search(page.read_text())
        if found is not None:
            raise PluginError(f"{page.relative_to(config.site_dir)} asks the network for something: {found[0]}")
