"""Units that prepare data: what ships, and how descriptions fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from neardata.arch.errors import InputError
from neardata.arch.preprocessor import load_preprocessor, preprocessor_names


def test_every_unit_has_a_system_with_the_groups_and_links_it_names() -> None:
    for name in preprocessor_names():
        unit = load_preprocessor(name)
        system = unit.load_system()
        for group in (unit.storage, unit.worker, unit.compute, unit.trainer):
            assert group in system.units, (name, group)
        for link, ends in (
            (unit.read_link, (unit.storage, unit.compute)),
            (unit.out_link, (unit.compute, unit.trainer)),
        ):
            assert set(ends) <= set(system.links[link].between), (name, link)
        for pipeline in unit.pipelines.values():
            system.pipeline(unit.compute, pipeline)
        assert system.count(unit.worker) == unit.in_flight
        assert unit.id_bytes.source and unit.power_w.source and unit.source


UNIT = """\
preprocessors:
  mine:
    kind: isp
    title: mine
    system: presto-smartssd
    worker: worker
    compute: fpga
    read_link: p2p
    out_link: network
    pipelines: {log: log}
    in_flight: 2
    id_bytes: {value: 4, basis: assumed, source: mine}
    power_w: {value: 25, basis: assumed, source: mine}
    source: mine
"""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("in_flight: 2", "in_flight: 0"), "mine.in_flight"),
        (("kind: isp", "kind: dpu"), "'dpu' is not known"),
        (("read_link: p2p", "reads: p2p"), "mine.reads: unknown key"),
        (("    source: mine\n", ""), "mine.source: missing"),
    ],
)
def test_what_cannot_be_names_file_line_and_key(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = tmp_path / "unit.yaml"
    at = UNIT.rindex(change[0])
    path.write_text(UNIT[:at] + change[1] + UNIT[at + len(change[0]) :])
    with pytest.raises(InputError) as error:
        load_preprocessor(str(path))
    assert text in str(error.value) and "unit.yaml:" in str(error.value)


def test_one_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "unit.yaml"
    path.write_text(UNIT)
    assert load_preprocessor(str(path)).load_system().names("worker") == ["worker0", "worker1"]
    assert load_preprocessor(f"{path}:mine", {"in_flight": 1}).load_system().names("worker") == ["worker"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "worker: worker",
            "worker: wrkr",
            "mine.worker: 'wrkr' is no group of presto-smartssd; did",
        ),
        ("compute: fpga", "compute: xx", "mine.compute: 'xx' is no group of presto-smartssd"),
        ("read_link: p2p", "read_link: p3p", "mine.read_link: 'p3p' is no link of presto-smartssd; did you"),
    ],
)
def test_roles_that_the_system_lacks_are_told(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = tmp_path / "unit.yaml"
    path.write_text(UNIT.replace(old, new))
    with pytest.raises(InputError, match=text):
        load_preprocessor(str(path)).load_system()
