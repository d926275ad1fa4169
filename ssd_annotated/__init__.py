"""The Single Shot MultiBox Detector (Liu et al., 2016), small enough to read in an evening."""

__version__ = "0.1.0"
