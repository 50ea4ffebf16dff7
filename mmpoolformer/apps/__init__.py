"""Whole programs over the library: each is behind one command."""
