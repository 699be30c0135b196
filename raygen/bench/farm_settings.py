"""What ``raygen bench farm`` can be asked for."""

from __future__ import annotations

from pydantic import Field

from raygen.settings import Settings


class FarmBenchSettings(Settings):
    """What ``raygen bench farm`` measures."""

    units: int = Field(20, ge=2, description="units that two actors, and two bare processes, sample")
    draws: int = Field(50, ge=1, description="draws of each")
    rounds: int = Field(9, ge=0, description="counted rounds of that; their median is told; 0 leaves it out")
    idle_units: int = Field(10_000, ge=0, description="units without work, and then ten times as many; 0 leaves it out")
    virtual_actors: int = Field(5_000, ge=1, description="actors of the simulation")
    virtual_units: int = Field(1_000_000, ge=0, description="units of the simulation; 0 leaves it out")
