"""Models in files: weights, spec and recipe as plain data, and the one that ships with the package.

Only tensors, numbers, strings and containers of these are unpickled.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ssd_annotated.model import SSD, ModelSpec, Recipe, build, check_architecture
from ssd_annotated.priors import PriorSpec
from ssd_annotated.support.checks import check_within
from ssd_annotated.support.storage import plain, read_plain, write_whole

_PARTS = ("spec", "recipe", "state_dict")


def save_model(model: SSD, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the weights, the spec and the recipe as plain data, atomically.

    With a `dtype` such as ``torch.float16`` the weights are stored as that type.

    Raises
    ------
    ValueError
        If `load_model` could not build such a model; see `register_architecture`.
    """
    content = describe(model)
    if dtype is not None:
        weights = content["state_dict"]
        content["state_dict"] = {
            k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()
        }
    write_whole(content, path)


def describe(model: SSD) -> dict[str, object]:
    """Spec, recipe and weights: all that `load_model` needs to build the model again."""
    model = uncompiled(model)
    check_architecture(model.spec.architecture)
    spec, recipe = plain(asdict(model.spec)), plain(asdict(model.recipe))
    return {"spec": spec, "recipe": recipe, "state_dict": model.state_dict()}


def uncompiled(model: nn.Module) -> nn.Module:
    """The network inside the wrapper of `torch.compile`, which gives the weights other names."""
    return getattr(model, "_orig_mod", model)


def load_model(path: str | Path) -> SSD:
    """Build the model that `save_model` wrote, in eval mode, on the CPU, in single precision.

    The checkpoints of a training run can be loaded too; everything but the model is ignored.

    Raises
    ------
    ValueError
        If the file is damaged, holds no model, or names an architecture that `build` does not know.
    """
    return model_of(read_plain(path), str(path))


def model_of(content: object, name: str) -> SSD:
    """Build the model that the content of a file of this name describes, as `load_model` does."""
    if not is_ours(content):
        raise ValueError(f"{name} holds no model: expected spec, recipe and state_dict")
    try:
        return _rebuild(*(content[part] for part in _PARTS))
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


def is_ours(content: object) -> bool:
    """Whether this is what `save_model` writes."""
    return isinstance(content, dict) and set(_PARTS) <= set(content)


def _rebuild(spec: dict, recipe: dict, state_dict: dict[str, Tensor]) -> SSD:
    """The model that these plain data describe."""
    spec = ModelSpec(**{**spec, "priors": PriorSpec(**spec["priors"])})
    check_within("the number of priors", sum(spec.priors.counts), 1, 10**7)
    with torch.device("meta"):  # takes no memory, whatever a file asks for
        weights = sum(weight.numel() for weight in build(spec, Recipe(**recipe)).parameters())
    stored = sum(map(torch.numel, state_dict.values()))
    check_within("the number of weights", weights, 0, 2 * stored)
    with torch.device("cpu"):  # even if another device is the default
        model = build(spec, Recipe(**recipe))
    model.load_state_dict(state_dict)
    return model.to(memory_format=torch.channels_last).eval()  # a tenth faster than NCHW


def pretrained(name: str = "tiny-graffiti") -> SSD:
    """Load a small model that ships with the package, in eval mode.

    ``"tiny-graffiti"`` is a TinySSD trained on the graffiti digits.
    """
    folder = Path(__file__).parent / "pretrained"
    names = sorted(path.stem for path in folder.glob("*.pt"))
    if name not in names:
        raise ValueError(f"no model {name!r} ships with the package, only {names}")
    return load_model(folder / f"{name}.pt")
