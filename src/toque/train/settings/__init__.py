"""The sections of a run's settings by their subject, their TOML, and why some are refused."""
