"""The folder of one run: its lock, its settings, what it was begun with and how it ended."""
