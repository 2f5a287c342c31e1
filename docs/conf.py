"""How the pages become a site: `make docs`. Sources are Markdown files of the repository, as they stand.

Invariant: the build fails over every link and every anchor that leads nowhere, and over every page that no table of
contents lists.
"""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docutils import nodes
from sphinx.addnodes import pending_xref

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).resolve().parent.parent
REPOSITORY: Final = "https://github.com/partymq/partymq/tree/main"

project = "PartyMQ"
project_copyright = "the authors of PartyMQ"
version = release = metadata.version("partymq")
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
nitpicky = True

myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = "PartyMQ"
html_copy_source = False
html_extra_path = ["site"]  # the page at the site's root, which leads to the contents


def link_folders(app: "Sphinx", doctree: nodes.document) -> None:
    """Lets links to folders, which are no pages, lead to the repository; MyST makes downloads of links to files."""
    page = Path(app.env.doc2path(app.env.docname))
    for node in list(doctree.findall(pending_xref)):
        target = (page.parent / node["reftarget"]).resolve()
        if node["refdomain"] != "doc" and target.is_dir() and target.is_relative_to(ROOT):
            link = nodes.reference("", "", *node.children, refuri=f"{REPOSITORY}/{target.relative_to(ROOT)}")
            node.replace_self(link)


def setup(app: "Sphinx") -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", link_folders)
