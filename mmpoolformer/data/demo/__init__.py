"""The generated demonstration data."""
