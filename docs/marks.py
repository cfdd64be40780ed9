"""What a script writes into a page stands between two marks; what a picture was made from is known by a fingerprint."""

from __future__ import annotations

import hashlib


def between(page: str, begin: str, text: str, end: str) -> str:
    """The page with `text` between its marks, in place of what stands there."""
    before, rest = page.split(begin)
    return before + begin + text + end + rest.split(end)[1]


def fingerprint(*texts: str) -> str:
    """Of these texts, in this order: what a picture was made from is told by it."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
