"""HDF5 and its quirks: access, structure, copies of trees."""

import platform


def _import_h5py() -> None:
    """Without a program that h5py has Python start: it asks for the one item of `platform.uname` that isn't known yet,
    and doesn't look at it."""
    known = getattr(platform.uname(), "__dict__", {})
    if "processor" in known:
        return
    known["processor"] = ""
    try:
        import h5py  # noqa: F401
    finally:
        del known["processor"]


_import_h5py()
