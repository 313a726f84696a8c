"""The version of the package: that of what is installed."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]

try:
    VERSION = version("lightning-sparse")
except PackageNotFoundError:  # on the path, but not installed: a checkout, or a copy in somebody's repository
    VERSION = "0+unknown"
