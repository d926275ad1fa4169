"""The system's Chromium, which prints the book and tests its pages."""

from __future__ import annotations

import os
import shutil

#: Its names on Debian, Ubuntu, GitHub's machines and elsewhere; the variable CHROMIUM goes first.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Containers often run as root, where Chromium starts without its sandbox only.
ARGUMENTS = ["--no-sandbox"]


def find_chromium() -> str | None:
    """The path of the program, or None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
