"""Traitlets configuration from the engine's settings."""

from traitlets.config import Config
from traitlets.config.loader import DeferredConfigString


def traitlets_config(values):
    """A Config of {Class: {trait: value}}; texts are read as on a command line, by each trait in its own way."""
    config = Config()
    for section, traits in values.items():
        for name, value in traits.items():
            config[section][name] = DeferredConfigString(value) if isinstance(value, str) else value
    return config
