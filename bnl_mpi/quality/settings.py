"""What the comparison compares: settings by name, and the simulated series that they are applied to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNREDUCED = "raw"

# The settings of the ACA 2025 talk; "raw" is the input itself.
PUBLISHED: Mapping[str, str] = {
    UNREDUCED: "",
    "b2s2": "-b 2 -s 2",
    "b2s2h12": "-b 2 -s 2 -H 12",
    "b2s2h16": "-b 2 -s 2 -H 16",
    "b2s2j120": "-b 2 -s 2 -J 120",
    "b2s2j360": "-b 2 -s 2 -J 360",
}


def _codestreams(*settings: tuple[int, int, float]) -> dict[str, str]:
    """HTJ2K codestreams as the stored chunks: of (bin factor, images summed, the codec's ratio)."""
    return {f"b{b}s{s}t{round(ratio)}": f"-b {b} -s {s} -T {ratio} -c htj2k" for b, s, ratio in settings}


# Without a codec, so that nothing but b and s is lost, and XDS reads them.
EXACT = {f"b{b}s{s}": f"-b {b} -s {s}" for b, s in ((2, 4), (3, 2), (3, 4), (4, 4))}
# At the file sizes of the published settings: J120 and H12, then H16 (J360 lies between).
EQUAL_SIZE = _codestreams((2, 2, 6.45), (2, 2, 9.1))
# At ratios of about 50, 110, 200 and 500 to 2 bytes a raw pixel: more bins and sums, or a coarser code.
TIERS = _codestreams(
    *((2, 1, 12.9), (1, 1, 51.5)),
    *((2, 2, 14), (2, 4, 7), (3, 2, 6.3), (2, 1, 28), (1, 1, 112)),
    *((2, 2, 25), (2, 4, 12.6), (3, 2, 11.3), (3, 4, 5.7), (4, 2, 6.4), (2, 8, 6.4)),
    *((2, 2, 62.5), (2, 4, 31.5), (3, 4, 14), (4, 2, 15.8), (4, 4, 7.9), (2, 8, 16), (3, 8, 7)),
)
PREDICTED = "{predicted}"
"""In a setting's words: the reflections that DIALS integrated of the unreduced data."""

# Reflections kept: exact; coded to about 200, 280 and 360:1; other radii; strong spots alone.
_KEEP = f"-b 2 -s 2 --keep {PREDICTED}"
KEPT = {
    "b2s2k": _KEEP,
    "b2s2k_exact": f"{_KEEP} -c htj2k",
    **{f"b2s2k_t{t}": f"{_KEEP} -T {t} -c htj2k" for t in (25, 35, 45)},
    **{f"b2s2k{r}_t35": f"{_KEEP} --keep_radius {r} -T 35 -c htj2k" for r in (5, 6)},
    "b2s2auto_t35": "-b 2 -s 2 --keep auto -T 35 -c htj2k",
}
SETTINGS: Mapping[str, str] = {**PUBLISHED, **EXACT, **EQUAL_SIZE, **TIERS, **KEPT}
# For data of one's own: the published ones, and what kept the most of the simulated data at each size.
FOR_INPUT = (*PUBLISHED, *EXACT, *EQUAL_SIZE, "b2s2t14", "b3s2t6", "b2s2t25", "b3s4t6", "b4s4t8", *KEPT)


@dataclass(frozen=True)
class Simulated:
    title: str
    simulate: str
    d_min: float
    settings: tuple[str, ...]
    space_group: str | None = None


# Hot pixels that no mask flags spoil single reflections of the unreduced data too, and a facility masks
# them: without them the codecs' own errors are seen.
SIMULATED: Mapping[str, Simulated] = {
    "weak": Simulated(
        "Weak data",
        "--frames 450 --osc 0.1 --resolution 1.65 --brightness 80 --bad_pixels 0",
        1.65,
        tuple(SETTINGS),
    ),
    "anomalous": Simulated(
        "Anomalous differences",
        "--frames 450 --osc 0.1 --resolution 1.9 --brightness 400 --bad_pixels 0 --anomalous --anomalous_ratio 0.1",
        1.9,
        (*PUBLISHED, *EQUAL_SIZE, "b2s2t14", "b2s4t7", *KEPT),
    ),
    "long": Simulated(
        "A long axis, wide rocking",
        "--frames 450 --osc 0.1 --resolution 2.2 --brightness 150 --bad_pixels 0 --mosaicity 0.4 --distance 110 "
        "--cell 50 70 190 90 90 90",
        2.2,
        (*PUBLISHED, *EXACT, "b2s2t14", "b3s2t6", "b2s2t25", *KEPT),
        space_group="P 21 21 21",
    ),
}
