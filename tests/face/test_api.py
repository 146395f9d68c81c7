"""The package from Python."""

from __future__ import annotations

import pytest

import neardata as nd


def test_names_do_where_objects_are_taken():
    graph = nd.llm("olmoe-1b-7b", batch=1, context=64, layers=1)
    with pytest.raises(nd.InputError, match=r"units\.gpu\.count: say how many units: load_system\('a100'\)"):
        nd.run(graph, "a100")
    report = nd.run(graph, nd.load_system("a100").with_counts(gpu=1))
    assert report.time_ps == sum(report.reasons_ps.values())


def test_batches_that_cannot_be_are_told():
    for batch in (0, -1, 1.5, True):
        with pytest.raises(
            nd.InputError, match=f"batch: must be a whole number of sequences from 1, got {batch}"
        ):
            nd.llm("olmoe-1b-7b", batch=batch, context=64)


def test_the_names_of_the_package_are_listed_and_stay_what_they_are():
    assert {"run", "llm", "reproduce"} <= set(dir(nd))
    assert nd.reproduce("sn40l") and nd.reproduce("sn40l"), "its module does not take its place"
