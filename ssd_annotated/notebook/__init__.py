"""What notebooks use: the figure helpers of `drawing`, and `show`."""

from ssd_annotated.drawing import plot as plot
