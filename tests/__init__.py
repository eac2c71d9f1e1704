"""The tests, and their support."""
