"""Checks of the data of a config, before and after it is built."""
