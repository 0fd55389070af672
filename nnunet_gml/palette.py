"""Okabe and Ito's colours: everybody can tell them apart, also in print and on a dark ground."""

from __future__ import annotations

BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, YELLOW = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#F0E442",
)
SERIES = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
"""For lines and marks that may lie on white: without yellow, which nobody sees there."""
ON_IMAGES = (SKY, ORANGE, GREEN, PURPLE, YELLOW, VERMILION)
"""For contours on grey images: without blue, which is too dark there."""
