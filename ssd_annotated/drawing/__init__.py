"""Figures by Matplotlib: the panels that chapters and the command line's figures are made of."""
