"""Recipes of another size: some rows, fewer epochs or images, several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch

from transpike.data.contract import check_images_word
from transpike.errors import RecipeError
from transpike.experiments.offset_rows import OffsetRow
from transpike.experiments.recipe import Recipe, RecipeRow, Training
from transpike.serialization.fields import check_count


def select_rows(recipe: Recipe, pattern: str) -> Recipe:
    """A recipe with some of its rows, and the trainings that these need.

    Args:
        recipe: the whole.
        pattern: what a row's label or the name of its network must contain, in any case; ``*`` stands for anything.

    Raises:
        RecipeError: there is no such row.
    """
    wanted = f"*{pattern.casefold()}*"

    def chosen(row: RecipeRow | OffsetRow) -> bool:
        return any(fnmatch(word.casefold(), wanted) for word in (row.label, row.network))

    rows, offsets = tuple(filter(chosen, recipe.rows)), tuple(filter(chosen, recipe.offsets))
    if not rows and not offsets:
        labels = ", ".join([row.label for row in recipe.rows] + [row.label for row in recipe.offsets])
        raise RecipeError(
            f"no row has {pattern!r} in its label or its network", where=recipe.name, fix=f"rows: {labels}"
        )
    return replace(recipe, rows=rows, offsets=offsets, trainings=needed_trainings(recipe.trainings, rows, offsets))


def needed_trainings(
    trainings: Sequence[Training],
    rows: Sequence[RecipeRow],
    offsets: Sequence[OffsetRow] = (),
    given: Iterable[str] = (),
) -> tuple[Training, ...]:
    """The trainings of networks that rows name and that are not given, and those that these start from."""
    there = set(given)
    needed = {network for row in rows for network in (row.network, *row.repeats)}
    needed = (needed | {row.network for row in offsets}) - there
    for training in reversed(trainings):
        if training.name in needed and training.start is not None:
            needed |= {training.start} - there
    return tuple(training for training in trainings if training.name in needed)


def repeat(recipe: Recipe, seeds: Sequence[int]) -> Recipe:
    """A recipe whose last trainings are made with several seeds; its rows then have a mean and a spread.

    A last training is one that no other starts from. What comes before it, the split of the data and the images of
    conversions keep the recipe's seed.

    Args:
        recipe: the whole.
        seeds: of order and augmentation, and of the weights of a training that starts with fresh ones.

    Raises:
        ValueError: no seed, one twice, or a negative one.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, got {list(seeds)}")
    begun = {training.start for training in recipe.trainings}
    trainings: list[Training] = []
    names: dict[str, tuple[str, ...]] = {}
    for training in recipe.trainings:
        if training.name in begun:
            trainings.append(training)
            continue
        own = [replace(training, name=f"{training.name}-seed{seed}", seed=seed) for seed in seeds]
        names[training.name] = tuple(each.name for each in own)
        trainings += own
    rows = [
        replace(row, network=names[row.network][0], repeats=names[row.network][1:]) if row.network in names else row
        for row in recipe.rows
    ]
    offsets = [replace(row, network=names[row.network][0]) if row.network in names else row for row in recipe.offsets]
    return replace(recipe, trainings=tuple(trainings), rows=tuple(rows), offsets=tuple(offsets))


def resize(recipe: Recipe, *, epochs: int | None = None, images: str | None = None, seed: int | None = None) -> Recipe:
    """A recipe at another size, for a first try or where time is short.

    Args:
        recipe: as published.
        epochs: of every training; None leaves them.
        images: test images of every row, see `transpike.data.test_images`; None leaves them.
        seed: of weights, splits and order; None leaves it.

    Raises:
        ValueError, DataError: a number or a word is refused.
    """
    trainings, rows, offsets = recipe.trainings, recipe.rows, recipe.offsets
    if epochs is not None:
        check_count("epochs", epochs)
        trainings = tuple(replace(training, epochs=epochs) for training in trainings)
    if images is not None:
        check_images_word(images)
        rows = tuple(replace(row, images=images) for row in rows)
        offsets = tuple(replace(row, images=images) for row in offsets)
    chosen = recipe.seed if seed is None else check_count("seed", seed, 0)
    return replace(recipe, trainings=trainings, rows=rows, offsets=offsets, seed=chosen)
