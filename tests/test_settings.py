"""The base of all settings: validation in one line, and parts that know what was given."""

import pickle
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from raygen.errors import SettingsError
from raygen.settings import Group, Settings


class Engine(Settings):
    power: int = Field(3, ge=1, le=9, description="power")
    fuel: str = Field("coal", description="fuel")


class Hull(Settings):
    length: float = Field(description="length")
    holes: tuple[Annotated[int, Field(ge=0)], ...] = Field((), description="holes")


class Ship(Engine, Hull):
    name: str | None = Field(None, description="name")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 2, "powr": 4}, "yard: unknown setting 'powr'; did you mean power?"),
        ({"powr": 4}, "yard: unknown setting 'powr'; did you mean power?"),
        ({"length": 2, "power": 10}, "yard: power = 10 is not possible; input should be less than or equal to 9"),
        ({"power": 1}, "yard: length is not given; give length (--length)"),
        ({"length": float("nan")}, "yard: length = nan is not possible; input should be a finite number"),
        ({"length": float("inf")}, "yard: length = inf is not possible; input should be a finite number"),
        (
            {"length": 1, "holes": [1, -2]},
            "yard: holes.1 = -2 is not possible; input should be greater than or equal to 0",
        ),
        ({"length": "a\nb"}, r"yard: length = 'a\nb' is not possible; input should be a valid number, "),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Ship.parse(values, where="yard")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__, "the validation library's own message is not shown"


def test_settings_cannot_be_changed() -> None:
    ship = Ship.parse({"length": 2}, where="yard")
    with pytest.raises(ValidationError):
        ship.power = 4  # type: ignore[misc]


def test_a_part_has_the_values_and_knows_still_which_were_given() -> None:
    ship = Ship.parse({"length": 2, "power": 3, "name": "Argo"}, where="yard")
    engine, hull = Engine.part_of(ship), Hull.part_of(ship)
    assert type(engine) is Engine
    assert (engine.power, engine.fuel, hull.length, hull.holes) == (3, "coal", 2.0, ())
    assert engine.model_fields_set == {"power"}, "given, though it is the default"
    assert hull.model_fields_set == {"length"}
    assert set(engine.model_dump()) == {"power", "fuel"}


def test_a_part_is_equal_to_the_same_settings_given_alone_and_survives_pickling() -> None:
    ship = Ship.parse({"length": 2, "power": 5}, where="yard")
    engine = Engine.part_of(ship)
    assert engine == Engine(power=5)
    again = pickle.loads(pickle.dumps(engine))
    assert again == engine
    assert again.model_fields_set == {"power"}


class Sail(Settings):
    group: ClassVar[Group] = Group.DATA

    area: float = Field(1.0, description="area")
    colour: Annotated[str, Group.TRAINING] = Field("white", description="colour")


class Schooner(Sail, Hull):
    area: float = Field(2.0, description="area")
    masts: int = Field(2, description="masts")


def test_a_field_is_in_the_group_of_its_annotation_or_of_the_class_that_defines_it() -> None:
    assert list(Schooner.groups().items()) == [
        ("length", Group.MAIN),
        ("masts", Group.MAIN),
        ("area", Group.DATA),
        ("colour", Group.TRAINING),
        ("holes", Group.MAIN),
    ]
