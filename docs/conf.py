"""Sphinx's settings for `make docs`: every page of this folder, and the API reference from docstrings."""

import jaxq

project = "jaxq"
author = "the authors of jaxq"
version = release = jaxq.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
exclude_patterns = ["manifests"]
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
html_theme_options = {"home_page_in_toc": True, "show_toc_level": 2}
