"""Small general things; imports nothing of the package but what lies here."""
