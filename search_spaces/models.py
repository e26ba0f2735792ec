"""Base class of everything a user writes: frozen, unknown keys refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from search_spaces.exceptions import UserError, unknown


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for key in value:
                if key not in known:
                    raise ValueError(unknown("key", str(key), known))
        return value

    @classmethod
    def parse(cls, raw: Any, where: str) -> Self:
        """Validate ``raw``; every problem is reported at once.

        Args:
            raw: What the user wrote, after YAML.
            where: Where it was written; starts the message.

        Raises:
            UserError: ``raw`` does not fit the model.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise UserError(f"{where} is not valid:\n{describe(error)}") from None


_LATER = {"later": True}


def later_field(default: Any, **constraints: Any) -> Any:
    """A field that earlier versions did not have, and whose default is what they did; see ``identity_fields``.

    The default can never change: trials that were trained before the field came share their id with it.

    Args:
        default: What earlier versions did.
        constraints: As for ``pydantic.Field``.
    """
    return Field(default=default, json_schema_extra=dict(_LATER), **constraints)


def as_kept(model: type[BaseModel], raw: Any) -> Any:
    """A model that an earlier version has written whole: fields that it lacks are what that version did.

    Without it a default of today, of a recipe as a rule, would be taken for what was done. Anything else comes back as
    it is.

    Args:
        model: Of ``raw``.
        raw: What was read.
    """
    if not isinstance(raw, Mapping):
        return raw
    later = {name: field for name, field in model.model_fields.items() if field.json_schema_extra == _LATER}
    if not model.model_fields.keys() - later.keys() <= raw.keys():
        return raw
    return {name: field.get_default() for name, field in later.items()} | dict(raw)


def identity_fields(model: BaseModel) -> dict[str, Any]:
    """All fields with their values, nested models alike, but for later fields that have their default.

    So a field that is added changes no id of what does not use it.
    """
    fields = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if field.json_schema_extra == _LATER and value == field.default:
            continue
        fields[name] = identity_fields(value) if isinstance(value, BaseModel) else value
    return fields


def describe(error: ValidationError) -> str:
    """One line per problem: where, what is wrong, what was got."""
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"].removeprefix("Value error, ")
        got = repr(item.get("input"))
        shown = "" if item["type"] == "value_error" else f" Got {got if len(got) < 120 else got[:117] + '...'}."
        lines.append(f"  {place}: {message}{shown}")
    return "\n".join(dict.fromkeys(lines))
