"""Weights that torchvision publishes, downloaded once, with an error that says what to do."""

from pickle import UnpicklingError

import torch
from torch import Tensor


def pretrained_state(weights: object) -> dict[str, Tensor]:
    """The tensors of a member of one of torchvision's enumerations, such as `VGG16_Weights`.

    Raises
    ------
    OSError
        If the download fails or the file is damaged; the message says what to do.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    # There is no connection, or the file is the wrong one, perhaps put there by hand.
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise OSError(
            f"the weights {weights} could not be downloaded or read ({error}). Fetch {weights.url} "
            f"by hand ({weights.meta['_file_size']:.0f} MB), put it into {folder} and try again; "
            "or start from random weights with weights=None"
        ) from error
