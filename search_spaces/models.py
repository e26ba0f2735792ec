"""Base class of everything a user writes: frozen, unknown keys refused with the nearest known one."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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
