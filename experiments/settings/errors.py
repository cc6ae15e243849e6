"""What is wrong with a recipe, one line per problem: where, the value, what is possible, the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

__all__ = ["RecipeError", "explained"]

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list in [ ]",
    "model_type": "a section",
    "model_attributes_type": "a section",
    "dict_type": "a section",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


class RecipeError(ValueError):
    """A recipe that cannot be used; its text is made for a terminal: one line per problem."""


def explained(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per problem of a recipe that should have been a `model`."""
    return [_line(problem, model) for problem in error.errors(include_url=False)]


def _line(problem: Any, model: type[BaseModel]) -> str:
    path, parent = _place(problem["loc"], model)
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    name = str(problem["loc"][-1]) if problem["loc"] else ""
    if kind == "extra_forbidden":
        return f"{path}: unknown key; {_nearest(name, list(parent.model_fields))}"
    if kind == "missing":
        field = parent.model_fields.get(name)
        meaning = f" ({field.description})" if field is not None and field.description else ""
        return f"{path}: is missing{meaning}"
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{path}: {value!r} must be {words} {context[key]:g}"
    if kind == "literal_error":
        return f"{path}: {value!r} is not possible; choose {context['expected']}"
    if kind == "union_tag_invalid":
        return f"{path}.method: {context['tag']!r} is not possible; choose {context['expected_tags']}"
    if kind == "union_tag_not_found":
        methods = [repr(tag) for one in _models(parent.model_fields[name].annotation) for tag in _tags(one)]
        return f"{path}.method: is missing; choose {', '.join(methods[:-1])} or {methods[-1]}"
    if kind == "too_short":
        return f"{path}: has {context['actual_length']} entries; give at least {context['min_length']}"
    if kind == "string_pattern_mismatch":
        return f"{path}: {value!r} may only consist of letters, digits and . _ -, and not begin with one of the last"
    if kind in _EXPECTED:
        return f"{path}: {_shown(value)} is not {_EXPECTED[kind]}"
    return f"{path}: {_shown(value)}: {problem['msg']}"


def _place(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The path as one would write it, such as ``supernet.space.stages[1].width``, and the section that holds its end.

    Among the parts that pydantic gives is also the tag of a union, which is no key of the file.
    """
    path, parent, inside = "", model, [model]
    for part in location:
        if isinstance(part, int):
            path += f"[{part + 1}]"
        elif len(inside) > 1:  # a union: this part is the tag of one of its models
            parent = next(candidate for candidate in inside if part in _tags(candidate))
            inside = [parent]
        else:
            path += f".{part}" if path else part
            parent = inside[0] if inside else parent
            field = parent.model_fields.get(part)
            inside = list(_models(field.annotation)) if field is not None else []
    return path, parent


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["method"].annotation)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
