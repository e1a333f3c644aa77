"""Signatures that list the keywords of a TypedDict, for `help` and interactive editors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])


def lists_keywords_of(*tables: Any) -> Callable[[_Method], _Method]:
    """Return a decorator for a method that ends in `**arguments: Unpack[...]`.

    The keys of the TypedDicts `tables`, the base first, are added to its signature, and their
    descriptions to its docstring. All keys are optional.
    """
    annotations = {name: hint for table in tables for name, hint in table.__annotations__.items()}
    keywords = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=getattr(hint, "__forward_arg__", hint),
        )
        for name, hint in annotations.items()
    ]
    documented = (inspect.cleandoc(table.__doc__ or "") for table in tables)
    attributes = [text.partition("Attributes:\n")[2] for text in documented]
    descriptions = "\n".join(["Keyword Args:", *attributes])

    def decorate(method: _Method) -> _Method:
        signature = inspect.signature(method)
        *others, _ = signature.parameters.values()
        complete = signature.replace(parameters=[*others, *keywords])
        method.__signature__ = complete  # type: ignore[attr-defined]
        method.__doc__ = (
            f"{inspect.cleandoc(method.__doc__ or '')}\n\nKeyword Args:\n{descriptions}"
        )
        return method

    return decorate
