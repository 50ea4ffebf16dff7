"""Drawings of results and curves of trainings."""
