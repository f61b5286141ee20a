"""The public address of the repository, set once by ``make notebooks ADDRESS=https://github.com/me/dualtask-lite``.

    python notebooks/address.py https://...    keep the address in notebooks/address.txt and write it into the README

Badges, the bootstrap cell and the README use it. Without an address there is no button, and the bootstrap cell says
how to install from a clone or a wheel.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from readme import write_part

HERE = Path(__file__).resolve().parent
KEPT = HERE / "address.txt"
README = HERE.parent / "README.md"
BOOTSTRAP = HERE / "source" / "bootstrap.py"
PART, MADE_BY = "address", "make notebooks ADDRESS=..."
FIRST_LESSON = "notebooks/00_start_here.ipynb"


def read() -> str:
    """Read the address; empty when none is set."""
    return KEPT.read_text(encoding="utf-8").strip() if KEPT.exists() else ""


def check(address: str) -> str:
    """Return an address without its last slash and ``.git``, or stop when git could not use it.

    Args:
        address: ``https://`` or ``ssh://``, then a host and a path.
    """
    if not re.fullmatch(r"(https|ssh)://[\w.@:~/+%-]+", address):
        sys.exit(
            f"error: {address!r} is not an address of a git repository; give one like https://github.com/me/course"
        )
    return address.rstrip("/").removesuffix(".git")


def bootstrap() -> str:
    """The bootstrap cell, with the address filled in."""
    empty, filled = 'ADDRESS = ""', f'ADDRESS = "{read()}"'
    text = BOOTSTRAP.read_text(encoding="utf-8").strip()
    if empty not in text:
        raise ValueError(f"{BOOTSTRAP.name} has no line {empty!r} to fill in")
    return text.replace(empty, filled)


def buttons(notebook: str) -> dict[str, str]:
    """Name and link of each service that opens a notebook from the address; none unless it is on GitHub.

    Args:
        notebook: its path in the repository.
    """
    place = read().removeprefix("https://github.com/")
    if place == read():
        return {}
    return {
        "Open in Colab": f"https://colab.research.google.com/github/{place}/blob/main/{notebook}",
        "Open in Binder": f"https://mybinder.org/v2/gh/{place}/main?urlpath=lab/tree/{notebook}",
    }


def links(notebook: str) -> str:
    """The buttons of a notebook as Markdown links; empty without an address on GitHub."""
    return " · ".join(f"[{name}]({link})" for name, link in buttons(notebook).items())


def readme_lines() -> str:
    """The README's lines on how to get the repository."""
    images = {
        "Open in Colab": "https://colab.research.google.com/assets/colab-badge.svg",
        "Open in Binder": "https://mybinder.org/badge_logo.svg",
    }
    badges = " ".join(f"[![{name}]({images[name]})]({link})" for name, link in buttons(FIRST_LESSON).items())
    get = f"Get it with `git clone {read()}`; then, in its folder:" if read() else "In a copy of this repository:"
    return "\n\n".join(filter(None, (badges, get)))


def main() -> None:
    """Keep the address that was given."""
    KEPT.write_text(check(sys.argv[1]) + "\n", encoding="utf-8")
    write_part(README, PART, readme_lines(), MADE_BY)


if __name__ == "__main__":
    main()
