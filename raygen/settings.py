"""The base of every component's settings: immutable, validated, and refused in one line that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from raygen.errors import SettingsError, closest


class Group(Enum):
    """The headings under which ``--help`` shows settings, in this order."""

    MAIN = "Main options"
    NETWORK = "Network"
    DATA = "Data"
    TRAINING = "Training"
    RATE = "Learning rate"
    TILT = "Tilt and reference"
    CHAINS = "Chains"
    STEPS = "Trajectories and step size"
    CONVERGENCE = "Convergence"
    COMPUTE = "Cluster and processes"


class Settings(BaseModel):
    """Immutable validated values; each component derives its own.

    Every field carries a ``description`` with its unit: the command line's ``--help`` is made of them. It is shown in
    the ``group`` of the class that defines it, or in that of its annotation: ``Annotated[int, Group.MAIN]``.
    """

    group: ClassVar[Group] = Group.MAIN
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate ``values``.

        Args:
            values: nested plain values, as read from YAML or from options.
            where: the file or command that they came from, for the message.

        Raises:
            SettingsError: for the first value that is wrong, naming its field.
        """
        if (large := _beyond(values)) is not None:
            raise SettingsError(f"{large} holds a number of more than 64 bits", where=where, right="give a smaller one")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _settings_error(cls, error, where) from None

    @classmethod
    def groups(cls) -> dict[str, Group]:
        """Return the group of each field: required ones first, and a class's own before inherited ones."""
        order = list(cls.__mro__)
        names = sorted(
            cls.model_fields,
            key=lambda name: (not cls.model_fields[name].is_required(), order.index(cls._owner_of(name))),
        )
        return {name: cls._group_of(name) for name in names}

    @classmethod
    def _group_of(cls, name: str) -> Group:
        marked = [mark for mark in cls.model_fields[name].metadata if isinstance(mark, Group)]
        # The group of a class is for the fields that it defines itself: a command's own ones are main options.
        return marked[0] if marked else vars(cls._owner_of(name)).get("group", Group.MAIN)

    @classmethod
    def _owner_of(cls, name: str) -> type[Settings]:
        """Return the class that defines a field; a class derived from it may change its default."""
        return [base for base in cls.__mro__ if issubclass(base, Settings) and name in base.model_fields][-1]

    @classmethod
    def part_of(cls, whole: Settings) -> Self:
        """Return this class's part of a composed configuration; it still knows which fields were given."""
        return cls.model_construct(
            whole.model_fields_set & set(cls.model_fields), **{name: getattr(whole, name) for name in cls.model_fields}
        )


def _settings_error(model: type[Settings], error: ValidationError, where: str) -> SettingsError:
    # A name that is mistyped explains a value that is missing, and goes first.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return SettingsError(f"unknown setting {path!r}", where=where, right=closest(str(first["loc"][-1]), known))
    if first["type"] == "missing":
        return SettingsError(f"{path} is not given", where=where, right=f"give {path} (--{path.replace('_', '-')})")
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    return SettingsError(f"{path} = {given!r} is not possible", where=where, right=message[:1].lower() + message[1:])


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)


def _beyond(values: object) -> str | None:
    """Return the name of a value that holds an integer which no library below takes."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if _is_beyond(name):
            return "a name"
        if _is_beyond(value):
            return str(name)
    return None


def _is_beyond(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_beyond, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple):
        return any(map(_is_beyond, value))
    return isinstance(value, int) and abs(value) >= 2**63
