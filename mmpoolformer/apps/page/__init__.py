"""The web page."""

LOOPBACK = ('127.0.0.1', 'localhost', '::1')  # this machine alone
