"""Every key of a recipe with its kind, default and meaning, as a page: from the settings themselves.

``python -m experiments.settings.reference > docs/recipe.md`` makes the page again, with ``--schema``
``docs/recipe.schema.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from experiments.settings.recipe import Recipe

__all__ = ["recipe_page", "recipe_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_HEAD = """# Every key of a recipe

Made by `python -m experiments.settings.reference` from the settings. An unknown key is refused, and the nearest known
one named. A section that can stand in several places is explained where it comes first.
"""


def recipe_page() -> str:
    """The page as Markdown: a table for every section, those of a method of training by its name."""
    return "\n".join([_HEAD, *_section("the recipe itself", Recipe, set())])


def _section(title: str, model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    seen.add(model)
    yield f"## {title}\n\n{_cell(model.__doc__ or '')}\n"
    yield "| key | kind | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[str, type[BaseModel]]] = []
    prefix = "" if model is Recipe else f"{title.split(',')[0].strip('`[]')}."
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {_cell(field.description or '')} |"
        models = list(_models(field.annotation))
        for one in models:
            place = f"`[{prefix}{name}]`"
            method = one.model_fields.get("method") if len(models) > 1 else None
            inner.append((f"{place}, method `{get_args(method.annotation)[0]!r}`" if method else place, one))
    yield ""
    for name, one in inner:
        if one not in seen:
            yield from _section(name, one, seen)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    if origin is Literal:
        return " or ".join(f"`{value!r}`" for value in arguments)
    if origin in (Union, UnionType):
        kinds = dict.fromkeys(_kind(one) for one in arguments if one is not NoneType)
        return " or ".join(kinds)
    if origin is tuple:
        return f"a list of: {' or '.join(dict.fromkeys(_kind(one) for one in arguments if one is not Ellipsis))}"
    if origin is dict:
        return "a section of keys of one's own"
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0])
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(annotation, "any value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value!r}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def recipe_schema() -> str:
    """The JSON schema of recipes, for editors: the same keys, kinds and meanings."""
    return json.dumps({"$schema": _DIALECT, **Recipe.model_json_schema()}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(recipe_schema() if "--schema" in sys.argv[1:] else recipe_page(), end="")
