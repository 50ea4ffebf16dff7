"""Data: the generated demonstration set, and folders of one's own."""
