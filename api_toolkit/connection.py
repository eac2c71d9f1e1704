"""Another name of :mod:`api_toolkit.connector`: the very same module.

The import below is what type checkers see of it.
"""

import sys

from api_toolkit import connector
from api_toolkit.connector import APIConnector

__all__ = ["APIConnector"]

# The import system hands out what it finds here once this file has run.
sys.modules[__name__] = connector
