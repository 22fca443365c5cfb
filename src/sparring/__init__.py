"""Sparring trains language agents by self-play."""
__version__ = "0.1.0"
