"""Site by site: every method's network at home, and one method's networks at the other sites."""

from __future__ import annotations

import math
from dataclasses import replace

from nnunet_gml.report.blocks import Cell, Section, Table, best_marked, cell, gain_cell, number
from nnunet_gml.report.study import Row, Study, row_of


def sites(study: Study) -> Section:
    """Site by method, and each site's network at the other sites where that was tried."""
    lead = (
        "Each site's own network on that site's own held-out cases: does everybody gain, or do some pay for "
        "others?"
    )
    return Section("sites", "Site by site", lead, [_by_method(study), *_matrix(study)])


def _by_method(study: Study) -> Table:
    lines = {
        site: [row_of(study.summary.sites, site=site, arm=arm) for arm in study.arms] for site in study.sites
    }
    rows = [[Cell(site), *best_marked([_with_gain(row) for row in line])] for site, line in lines.items()]
    total = [Cell("all sites"), *(_with_gain(study.arm_row(arm)) for arm in study.arms)]
    caption = (
        f"Mean Dice, with the gain over {study.baseline} below. Bold: the highest in its row. Coloured: the "
        "95 % interval of the gain leaves out zero. A click on a head sorts."
    )
    return Table(caption, ["site", *study.arms], rows, total)


def _with_gain(row: Row) -> Cell:
    note = "" if math.isnan(row.gain.value) else number(row.gain.value, 3, sign=True)
    return replace(cell(row["dice"], note=note), tone=gain_cell(*row.gain).tone)


def _matrix(study: Study) -> list[Table]:
    matrix = study.summary.matrix
    if matrix is None or not len(matrix):
        return []
    arm = study.focus if study.focus in set(matrix["arm"]) else str(matrix["arm"].iloc[0])
    rows = []
    for trained in study.sites:
        found = [row_of(matrix, trained_at=trained, tested_at=tested, arm=arm) for tested in study.sites]
        rows.append([Cell(trained), *best_marked([cell(each["dice"]) for each in found])])
    caption = (
        f"{arm}: mean Dice of the network trained at the site in the row, on the cases of the site in the "
        "column."
    )
    return [Table(caption, ["trained at", *study.sites], rows)]
