"""Transfer: a trained model for other classes keeps what it knows of those that it shares."""

from dataclasses import replace

import torch

from ssd_annotated.model import SSD, build


def start_from(old: SSD, class_names: tuple[str, ...]) -> SSD:
    """A model for these classes with the weights of `old`: all but the rows of classes new to it.

    In the confidence heads a class has one row of outputs for each prior of a cell, row k · C + c.
    Classes of the same name keep theirs, and so does background; those of new classes are random.
    """
    names = old.recipe.class_names
    with torch.device(old.priors.device):
        model = _like(old, class_names)
    with torch.device("meta"):  # only shapes are wanted: what grows with the classes has such rows
        grown = _like(old, (*names, "one more")).state_dict()
    kept = [(new, names.index(name)) for new, name in enumerate(class_names) if name in names]
    weights = model.state_dict()
    for name, value in old.state_dict().items():
        if value.shape == grown[name].shape:
            weights[name].copy_(value)
            continue
        each = len(value) // len(names)
        rows, former = (x.unflatten(0, (each, -1)) for x in (weights[name], value))
        for here, there in kept:
            rows[:, here] = former[:, there]
    return model


def _like(old: SSD, class_names: tuple[str, ...]) -> SSD:
    """The network of `old` for these classes, with random weights."""
    spec = replace(old.spec, num_classes=len(class_names))
    return build(spec, replace(old.recipe, class_names=class_names))
