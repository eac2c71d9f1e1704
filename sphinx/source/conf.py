"""How Sphinx builds the documentation: offline, and the same every time.

sphinx-build -n -W -b html sphinx/source docs
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "extensions"))
sys.path.insert(0, ROOT)

import pdpyras  # noqa: E402

project = "pdpyras"
author = "the pdpyras contributors"
copyright = author  # No year: it would change by itself.
version = release = pdpyras.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.githubpages",
    "sphinx.ext.intersphinx",
    "endpoint_table",
    "settings_table",
]
nitpicky = True
nitpick_ignore_regex = [
    # Type variables and aliases that signatures mention; they have no page.
    (r"py:.*", r"(pdpyras\.)?_[A-Za-z]\w*"),
    (r"py:.*", r"pdpyras\._\w+"),
]
primary_domain = "py"
default_role = "literal"
highlight_language = "python"
rst_epilog = """
.. _Requests: https://requests.readthedocs.io/
.. _REST API: https://developer.pagerduty.com/api-reference/
"""

# The names that these pages refer to, bundled so that building needs no
# network. The links lead to the projects' own documentation.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "requests": (
        "https://requests.readthedocs.io/en/latest/",
        "inventories/requests.inv",
    ),
    "urllib3": (
        "https://urllib3.readthedocs.io/en/stable/",
        "inventories/urllib3.inv",
    ),
}
intersphinx_cache_limit = 0

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
add_module_names = False
python_maximum_signature_line_length = 60
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"pdpyras {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["pdpyras.css"]
html_js_files = [
    ("pages.js", {"defer": "defer"}),
    ("endpoints.js", {"defer": "defer"}),
]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#04703a",
        "color-brand-content": "#04703a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#4fc98a",
        "color-brand-content": "#4fc98a",
    },
    "navigation_with_keys": True,
}
