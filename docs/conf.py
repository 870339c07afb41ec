"""How `make docs` builds the site: Sphinx, the furo theme, pages in MyST Markdown, reference from docstrings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from lssvwm import __version__

project = "lssvwm"
author = "the authors of lssvwm"
copyright = "the authors of lssvwm, MIT licence"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lssvwm"
myst_enable_extensions = ["colon_fence", "linkify"]
myst_heading_anchors = 3
# Pages link to files of the repository as well; those links are for readers of the repository.
suppress_warnings = ["myst.xref_missing"]
default_role = "literal"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "forward"}


def _for_docutils(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Docstrings say `name: what it is` with deeper lines below, and set code by indenting it: a list, and a block."""
    text = lines[:1]
    item = code = False
    for line in lines[1:]:  # the first is the summary
        begins = re.match(r"(\w+(?:, \w+)*(?: \([^)]*\))?): (.*)", line)
        deeper = line.startswith("    ")
        if begins:
            if not item and text and text[-1]:
                text.append("")
            line = f"* **{begins[1]}**: {begins[2]}"
        elif item and deeper:
            line = "  " + line.strip()
        elif deeper and not code:
            text += ["::", ""]
        elif item and line:
            text.append("")
        item = bool(begins) or (item and deeper)
        code = (deeper or (code and not line)) and not item
        text.append(line)
    lines[:] = text


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _for_docutils)
