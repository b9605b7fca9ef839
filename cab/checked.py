"""Values as the types that are declared for them; one that does not fit is a UserError of one line that names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from attentions.base import Unsupported
from cab.errors import UserError, instead, one_line


def mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """The value, if it is a mapping. Raises UserError."""
    if not isinstance(value, Mapping):
        raise UserError(f"{name}={value!r}: it has options, and is none: give them as {name}.OPTION=...")
    return value


def checked(name: str, kind: Any, value: Any) -> Any:
    """The value as `kind`; a dataclass or pydantic model is made from a mapping of its fields. Raises UserError."""
    is_model = isinstance(kind, type) and (issubclass(kind, BaseModel) or is_pydantic_dataclass(kind))
    if is_model or is_dataclass(kind):
        known = list(kind.model_fields) if hasattr(kind, "model_fields") else [field.name for field in fields(kind)]
        for key in mapping(name, value):
            if key not in known:
                raise UserError(f"{name}.{key}={value[key]!r}: no such option; {instead(str(key), known)}")
        if not is_model:
            return _dataclass(name, kind, value)
    try:
        if is_model:
            return kind(**value)
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *(str(part) for part in first["loc"])])
        no_value = first["type"] == "missing" or (is_model and not first["loc"])
        shown = "" if no_value else f"={first['input']!r}"
        raise UserError(f"{where}{shown}: {first['msg'].removeprefix('Value error, ')}") from error


def _dataclass(name: str, kind: Any, value: Mapping[str, Any]) -> Any:
    """One that pydantic does not know."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.name not in value and field.default is MISSING:
            raise UserError(f"{name}.{field.name}: Field required")
    made = {key: checked(f"{name}.{key}", hints[key], each) for key, each in value.items()}
    with user_errors(f"{name}: "):
        return kind(**made)


@contextmanager
def user_errors(where: str = "") -> Iterator[None]:
    """Turns errors about values into UserErrors: for places where only what the user gave can be wrong."""
    try:
        yield
    except Unsupported:
        raise
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(where + one_line(error)) from error
