"""The form of a rule: a function that looks at a set and yields what it saw, and the table of all rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .subject import Observation, Subject

XDS = "XDS"
"""Through neggia, Dectris' plugin."""
DIALS = "DIALS"
UPSTREAM = "dxtbx"
"""The development version of DIALS' reader, which reads Eiger masters in a way of its own."""
DURIN = "durin"
"""The plugin of Diamond Light Source for XDS."""
EIGER2CBF, FABIO, NXMX, OURS = "eiger2cbf", "fabio", "nxmx", "bnl_mpi"

READERS = (XDS, DIALS, DURIN, UPSTREAM, EIGER2CBF, FABIO, NXMX)
"""All but this program."""

Function = Callable[[Subject], Iterable[Observation]]


@dataclass(frozen=True)
class Rule:
    """One demand of one reader."""

    reader: str
    name: str
    demand: str
    required: bool
    """False where a set that breaks it is still read, but with something lost."""
    function: Function


RULES: dict[tuple[str, str], Rule] = {}


def rule(reader: str, name: str, demand: str, *, required: bool = True) -> Callable[[Function], Function]:
    """Enter a function in the table.  It yields nothing where another rule tells of the absent object."""

    def enter(function: Function) -> Function:
        if (reader, name) in RULES:
            raise ValueError(f"two rules {name} of {reader}")
        RULES[reader, name] = Rule(reader, name, demand, required, function)
        return function

    return enter


def worst(observations: Iterable[Observation]) -> Iterator[Observation]:
    """All that fail; else one that holds.  A set of a thousand files shall not give a thousand lines."""
    seen = list(observations)
    failed = [one for one in seen if not one.ok]
    yield from failed or seen[:1]
