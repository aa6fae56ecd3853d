"""The lossy codecs: a file each, and an entry in `registry`.  Nothing heavy is imported before a codec is made."""

from .registry import from_config as from_config
from .registry import make as make
