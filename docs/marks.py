"""What a script writes into a page stands between two marks."""

from __future__ import annotations


def between(page: str, begin: str, text: str, end: str) -> str:
    """The page with `text` between its marks, in place of what stands there."""
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]
