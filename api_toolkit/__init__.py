"""What API connectors have in common: a session that retries by itself.

See :mod:`api_toolkit.connector`.
"""

from api_toolkit.connector import APIConnector

__all__ = ["APIConnector"]
