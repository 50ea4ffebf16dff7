"""The version of the package, read by ``setup.py`` without importing the rest."""

__version__ = '0.1.0'
