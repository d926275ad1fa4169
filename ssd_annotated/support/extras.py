"""Modules that come with the optional extras of ``pyproject.toml``."""

from importlib import import_module
from types import ModuleType


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import what an extra provides, or say how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        hint = f"pip install 'ssd-annotated[{extra}]'"
        raise ImportError(f"{purpose} needs {package}: {hint}") from error
