"""``python -m ssd_annotated``: the same as the command ``ssd-annotated``."""

from ssd_annotated.app.cli import main

if __name__ == "__main__":  # workers that load images import this file again
    main(prog_name="ssd-annotated")
