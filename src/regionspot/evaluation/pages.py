"""Renders the templates of reports, which all extend ``page.html.jinja``."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: object) -> str:
    """Return a page as HTML that needs no other file and no network.

    Args:
        template: File name of the template.
        **values: The variables of the template; all text in them is escaped.
    """
    environment = Environment(
        loader=PackageLoader("regionspot", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)
