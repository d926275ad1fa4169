"""A Sphinx extension that leaves unused scripts out of the pages."""


def without_thebe(_app, _page, _template, context: dict, _doctree) -> None:
    """Drop sphinx-thebe's scripts: jupyter-book adds them to every page, even twice."""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if "thebe" not in repr(file)]


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("html-page-context", without_thebe, priority=900)
    return {"parallel_read_safe": True}
