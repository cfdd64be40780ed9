"""What a user asked for, settled: a method and its training with all settings, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from fittedq import algorithms
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.presets import preset_for
from fittedq.control.augmentation import Augmentation
from fittedq.envs.plant import AbstractPlant
from fittedq.errors import UserError, nearest
from fittedq.settings import setting_fields
from fittedq.trainers.choose import CHOICES, Choice, Settings, choose, split_for


@final
@dataclass(frozen=True)
class Settled:
    """A method and its training, whose settings are all checked."""

    method: AbstractAlgorithm
    training: Settings
    augmentation: Augmentation
    choice: Choice

    @staticmethod
    def of(
        algorithm: algorithms.Asked,
        plant: AbstractPlant | None,
        settings: Mapping[str, Any],
        preset: str | None,
        described: Mapping[str, Any],
    ) -> Settled:
        """A UserError for the first setting that is wrong. `settings` override those of the `preset`, and what is
        `described` of the plant."""
        algorithm = algorithms.asked_for(algorithm)
        cls, choice = algorithms.class_of(algorithm), choose(algorithm, plant)
        given, loop_given, seen = split_for(settings, algorithm, choice)
        published = {} if preset is None else preset_for(preset, algorithm).settings
        _check_known(published, cls, preset)
        _check_sample(described, seen)
        augmentation = Augmentation(**_named(published, Augmentation) | dict(described) | seen)
        given = _settling(augmentation, cls, _named(published, cls), given)
        # What has no meaning from a dataset, such as how data are collected, is left out.
        usual = _named({**cls.training, **published}, choice.settings)
        training = choice.settings(**usual | loop_given)
        return Settled(algorithms.made(algorithm, given), training, augmentation, choice)


def _check_known(published: Mapping[str, Any], cls: type[AbstractAlgorithm], preset: str | None) -> None:
    """Refuse a preset with what is no setting wherever data come from."""
    groups = (cls, Augmentation, *(choice.settings for choice in CHOICES.values()))
    known = {field.name for group in groups for field in setting_fields(group)}
    for name in published:
        if name not in known:
            raise UserError(f"{preset}: [settings] holds {name!r}; {nearest(name, known)}", argument="preset")


def _check_sample(described: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a time of a sample that is not the data's."""
    found, asked = described.get("sample"), given.get("sample")
    if found is not None and isinstance(asked, int | float) and abs(asked - found) > 0.01 * found:
        raise UserError(
            f"setting sample: found {asked:g} s, and the data's rows are {found:g} s apart by their description; leave "
            "it out, or import the log on another grid."
        )


def _settling(
    augmentation: Augmentation, cls: type[AbstractAlgorithm], usual: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """The algorithm's settings: γ follows from a settling time, where there is one."""
    discount = augmentation.discount
    if discount is None:
        return usual | given
    if "gamma" not in {field.name for field in setting_fields(cls)}:
        raise UserError(f"setting settling: {cls.__name__} has no gamma that could follow from it; leave it out.")
    if "gamma" in given:
        raise UserError(
            f"setting gamma: found {given['gamma']} beside settling, from which it follows; give one of them."
        )
    return usual | given | {"gamma": discount}


def _named(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Those of `values` that are settings of `cls`."""
    names = {field.name for field in setting_fields(cls)}
    return {name: value for name, value in values.items() if name in names}
