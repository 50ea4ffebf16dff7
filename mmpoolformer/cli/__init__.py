"""The command lines, one module a command; torch is not imported here."""
