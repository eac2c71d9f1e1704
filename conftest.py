"""The fixtures of all tests stand in tests/support.py."""

pytest_plugins = ["tests.support"]
