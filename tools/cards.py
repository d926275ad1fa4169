"""Draw a small picture of each chapter, from the figure that its readers should remember.

The landing page shows it on the chapter's card, and other sites show it with a link to the chapter.
A chapter names its figure in the box of class ``goals`` below its title; the picture comes from the
stored outputs. ``make book`` draws all of them into ``book/_static/cards``.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib
import nbformat
from nbformat import NotebookNode
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "book" / "_static" / "cards"
CARD = (400, 225)  # pixels: on the landing page, on which there are twenty
SOCIAL = (1200, 630)  # pixels: what Open Graph recommends
TALL = 1.2  # times as high as wide
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
NAMED = re.compile(r":class: goals.*?\{numref\}`([\w-]+)`", re.DOTALL)
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def prose(notebook: NotebookNode) -> str:
    """All Markdown of a notebook."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def remembered(notebook: NotebookNode) -> Image.Image:
    """The figure that the chapter asks its readers to remember, as it is stored."""
    named = NAMED.search(prose(notebook))
    if named is None:
        raise ValueError("no box of class goals names a figure to remember")
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == named[1]:
            data = [o.data for o in cell.outputs if "image/png" in o.get("data", {})]
            picture = Image.open(io.BytesIO(base64.b64decode(data[0]["image/png"])))
            return picture.convert("RGB")
    raise ValueError(f"no cell draws the figure {named[1]!r}")


def fitted(figure: Image.Image, size: tuple[int, int], share: float = 1.0) -> Image.Image:
    """The figure on a white card, as large as it goes within ``share`` of the height.

    Of a tall figure, which would be small, it is the upper part.
    """
    width, height = size
    if figure.height > TALL * figure.width:
        figure = figure.crop((0, 0, figure.width, round(height / width * figure.width)))
    room = (width - 0.04 * width, share * height - 0.04 * width)
    scale = min(room[0] / figure.width, room[1] / figure.height)
    small = ImageOps.scale(figure, scale, Image.Resampling.LANCZOS)
    card = Image.new("RGB", size, "white")
    top = round(height * (1 - share) + (share * height - small.height) / 2)
    card.paste(small, ((width - small.width) // 2, top))
    return card


def social(figure: Image.Image, title: str) -> Image.Image:
    """What other sites show with a link: the chapter's title above its figure."""
    card = fitted(figure, SOCIAL, share=0.74)
    draw = ImageDraw.Draw(card)
    name, _, question = title.partition(": ")
    bold = ImageFont.truetype(str(FONTS / "DejaVuSans-Bold.ttf"), 52)
    plain = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 30)
    draw.text((48, 34), name, "#1b2430", bold)
    line = f"The Annotated SSD · {question[:1].upper()}{question[1:]}".rstrip("· ")
    draw.text((48, 106), line, "#4a5565", plain)
    return card


def main() -> None:
    """Draw the cards of all chapters."""
    TARGET.mkdir(exist_ok=True)
    for path in sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        figure, title = remembered(notebook), TITLE.search(prose(notebook))[1]
        fitted(figure, CARD).save(TARGET / f"{path.stem}.webp", quality=70)
        social(figure, title).save(TARGET / f"{path.stem}.jpg", quality=80)


if __name__ == "__main__":
    main()
