"""Sphinx's settings for `make docs`: every page of this folder, and the API reference from docstrings."""

import pathlib
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import jaxq

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from make_diagrams import PICTURES, name_of  # noqa: E402

project = "jaxq"
author = "the authors of jaxq"
version = release = jaxq.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["manifests", "diagrams"]
# What a tutorial says on standard error (a warning of calibration) belongs to its page.
nb_output_stderr = "show"
nitpicky = False
default_role = "code"  # docstrings write `name` for code, as Markdown does

# Headings are the targets of links (`page.md#a-heading`), as on GitHub.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "off"  # `make docs NOTEBOOKS=cache` runs the tutorials, once until their code changes
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "sphinx_book_theme"
html_title = f"jaxq {version}"
html_copy_source = False
html_theme_options = {"home_page_in_toc": True, "show_toc_level": 2, "use_download_button": False}
html_static_path = ["static"]
html_css_files = ["site.css"]


class Mermaid(SphinxDirective):
    """A Mermaid diagram, as the picture that docs/make_diagrams.py drew of it. The pages' sources keep the text."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The picture's text within the page; a warning where there is none."""
        picture = PICTURES / name_of("\n".join(self.content))
        self.env.note_dependency(str(picture))
        if not picture.exists():
            why = "This diagram has no picture. Run: make node-packages && python docs/make_diagrams.py"
            return [self.state.document.reporter.warning(why, line=self.lineno)]
        return [nodes.raw("", f'<div class="diagram">{picture.read_text("utf-8")}</div>', format="html")]


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_directive("mermaid", Mermaid)
