"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("toque")
except PackageNotFoundError:  # a source tree on the path, not installed
    VERSION = "0+source"
