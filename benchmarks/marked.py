"""Text that programs put into a page, between the markers ``<!-- NAME:begin -->`` and
``<!-- NAME:end -->``; what stands around them is written by hand.
"""

from __future__ import annotations

import re


def fill(page: str, name: str, content: str) -> str:
    """The page with ``content``, lines of its own, between the markers of ``name``."""
    marked = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    filled, found = marked.subn(lambda match: match[1] + content + match[2], page)
    if found != 1:
        raise ValueError(f"README.md: expected one pair of markers {name}:begin/end, got {found}")
    return filled
