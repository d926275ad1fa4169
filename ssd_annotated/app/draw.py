"""Detections drawn into an image's own pixels, by OpenCV alone.

The book's figures come from `plot`, which needs matplotlib. This module draws on photographs and
videos.
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ssd_annotated.nms import Detections
from ssd_annotated.transforms import check_image

Colour = tuple[int, int, int]

#: Okabe and Ito (2002): seven colours that people with any kind of colour vision can tell apart.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LEAST_TEXT = 8  # pixels: smaller letters cannot be read


def draw_detections(
    image: UInt8[np.ndarray, "h w 3"], detections: Detections, class_names: tuple[str, ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """Copy an RGB image and draw a box, its class's name and its score for every detection.

    Lines and letters grow with the image. Boxes are cut off at its border, and all text stays
    inside it: with little room the letters shrink, then the score is dropped, then the name. From
    version 5 on OpenCV writes any script; OpenCV 4 writes question marks for letters beyond ASCII.

    Parameters
    ----------
    class_names
        ``"background"`` first, as in a recipe.

    Raises
    ------
    ValueError
        If a label has no name, or the image is not (height, width, 3) of 8-bit integers.
    """
    check_image(image)
    labels = detections.labels.tolist()
    if labels and not 0 < min(labels) <= max(labels) < len(class_names):
        raise ValueError(
            f"labels run from {min(labels)} to {max(labels)}, but there are names for 1 to "
            f"{len(class_names) - 1}"
        )
    canvas = np.ascontiguousarray(image).copy()
    corners = to_pixels(detections, image.shape[1], image.shape[0])
    found = list(zip(corners.tolist(), detections.scores.tolist(), labels))
    # The best are drawn last, on top of the others, and all names on top of all boxes.
    for box, _, label in reversed(found):
        draw_box(canvas, box, class_colour(label))
    for box, score, label in reversed(found):
        draw_name(canvas, box, (f"{class_names[label]} {score:.2f}", class_names[label]), label)
    return canvas


def to_pixels(detections: Detections, width: int, height: int) -> Float[np.ndarray, "D 4"]:
    """``xyxy`` in pixels from the image's top left corner, cut off at its border."""
    boxes = detections.boxes.detach().cpu().double().clamp(0, 1).numpy()
    return boxes * [width, height, width, height]


def class_colour(label: int) -> Colour:
    """The RGB colour of a class: the palette, then darker, then lighter, then from the start."""
    turn, place = divmod(label - 1, len(PALETTE))
    colour = np.array(PALETTE[place])
    # 0.45 keeps all 21 apart, for every kind of colour vision.
    shades = (colour, 0.45 * colour, 255 - 0.45 * (255 - colour))
    return tuple(shades[turn % 3].round().astype(int).tolist())


def ink(colour: Colour) -> Colour:
    """Black or white, whichever stands out more from a colour."""
    linear = (np.array(colour) / 255) ** 2.2
    # Contrast as the web's guidelines define it is equal for both at a luminance of 0.18.
    return (0, 0, 0) if linear @ [0.2126, 0.7152, 0.0722] > 0.18 else (255, 255, 255)


def draw_box(canvas: UInt8[np.ndarray, "h w 3"], box: list[float], colour: Colour) -> None:
    """Draw a frame with an edge in black or white, so that it shows on any background."""
    height, width = canvas.shape[:2]
    thickness = max(2, round((height * width) ** 0.5 / 350))
    x0, y0, x1, y1 = (round(side) for side in box)
    # A box ends where its last pixel ends.
    for shade, wide in ((ink(colour), thickness + 2), (colour, thickness)):
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), shade, wide)


def draw_name(
    canvas: UInt8[np.ndarray, "h w 3"], box: list[float], texts: tuple[str, ...], label: int
) -> None:
    """Draw the first text that fits, above the box or, if the image ends there, inside it."""
    height, width = canvas.shape[:2]
    wanted = max(12, (height * width) ** 0.5 / 45)
    plates = (write(text, class_colour(label), wanted, (width, height)) for text in texts)
    plate = next((plate for plate in plates if plate is not None), None)
    if plate is None:
        return
    rows, columns = plate.shape[:2]
    left = min(round(box[0]), width - columns)
    top = min(max(round(box[1]) - rows, 0), height - rows)
    canvas[top : top + rows, left : left + columns] = plate


def write(
    text: str, ground: Colour, wanted: float, room: tuple[int, int]
) -> UInt8[np.ndarray, "r c 3"] | None:
    """A plate with letters at most `wanted` pixels high; None if they would be too small to read.

    `room` is (width, height) in pixels.
    """
    height = cv2.getTextSize(text, FONT, 1.0, 1)[0][1]
    if height == 0:  # a class without a name
        return None
    scale = wanted / height
    size, origin, thickness = measure(text, scale)
    while (size[0] > room[0] or size[1] > room[1]) and origin[1] >= LEAST_TEXT:
        # Letters come in whole pixels, so a text that should just fit may need another step.
        scale *= min(0.95, room[0] / size[0], room[1] / size[1])
        size, origin, thickness = measure(text, scale)
    if origin[1] < LEAST_TEXT:
        return None
    plate = np.full((size[1], size[0], 3), ground, dtype=np.uint8)
    return cv2.putText(plate, text, origin, FONT, scale, ink(ground), thickness, cv2.LINE_AA)


def measure(text: str, scale: float) -> tuple[tuple[int, int], tuple[int, int], int]:
    """(width, height) of a plate for a text, where the text starts on it, and its thickness."""
    thickness = max(1, round(2 * scale))
    (columns, rows), below = cv2.getTextSize(text, FONT, scale, thickness)
    # OpenCV 4 measures to the middle of the stroke; its other half lies beyond.
    margin = max(2, rows // 8) + thickness // 2
    return (columns + 2 * margin, rows + below + 2 * margin), (margin, margin + rows), thickness
