"""The documents: their examples run, and they tell of every option and field."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from neardata.arch.dram.mapping import mapping_names
from neardata.arch.system import parse_system
from neardata.arch.system.system import (
    LinkUse,
    MemoryUnit,
    PimUnit,
    ProcessorUnit,
    StorageUnit,
    StreamUnit,
)
from neardata.cli.app import run
from neardata.mappers.mapping import Mapping
from neardata.mappers.products import ProductForm
from neardata.study import Study, SystemChoice
from neardata.workloads.patterns import PATTERNS
from neardata.workloads.recsys import load_spec, preprocess, read_table, sample_path

ROOT = Path(__file__).parents[2]
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def output_of(capsys, *arguments):
    assert run(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", ["docs/tutorial.md", pytest.param("README.md", marks=pytest.mark.slow)])
def test_commands_print_what_the_document_shows(document):
    """Else: python benchmarks/documents.py"""
    spec = importlib.util.spec_from_file_location("documents", ROOT / "benchmarks" / "documents.py")
    assert spec is not None and spec.loader is not None
    documents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documents)
    text = (ROOT / document).read_text()
    with documents.workplace():
        assert documents.renewed(text) == text


def test_the_install_line_runs_the_quickstart():
    assert "&& neardata run quickstart.yaml --out quickstart\n" in blocks("README.md", "")[0]


def test_every_key_of_systems_and_studies_is_described():
    described = (ROOT / "docs" / "systems.md").read_text()
    units = (ProcessorUnit, PimUnit, MemoryUnit, StorageUnit, StreamUnit, LinkUse)
    for model in (Study, SystemChoice, Mapping, ProductForm, *units):
        for key in model.model_fields:
            assert f"`{key}`" in described, key


def test_the_example_system_is_one():
    system, mapping = (yaml.safe_load(example) for example in blocks("docs/systems.md", "yaml"))
    assert parse_system(system).count("pim") == 2
    assert Mapping.model_validate(mapping["mapping"]).products["experts.down"].k_parts == 4


def test_the_first_look_at_memory_is_what_a_run_prints(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    (shown,) = (block for block in blocks("docs/usage.md", "") if block.startswith("$ neardata dram run\n"))
    printed = output_of(capsys, "dram", "run")
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()[1:]


def test_the_example_device_runs(capsys, tmp_path):
    (preset,) = blocks("docs/devices.md", "yaml")
    path = tmp_path / "my.yaml"
    path.write_text(preset)
    assert "16 GiB" in output_of(capsys, "show", str(path))
    report = json.loads(output_of(capsys, "dram", "run", "-d", str(path), "-n", "1000", "--json"))
    assert report["device"] == "my-ddr4"


def test_the_example_preprocessing_runs(tmp_path):
    (spec,) = blocks("docs/preprocessing.md", "yaml")
    path = tmp_path / "mine.yaml"
    path.write_text(spec)
    batch = preprocess(load_spec(str(path)), read_table(sample_path()))
    assert batch.dense.shape == (512, 3) and batch.sparse.keys == ("C1", "C2")


def test_the_example_program_runs(capsys, tmp_path):
    (program,) = blocks("docs/programs.md", "yaml")
    path = tmp_path / "gemv.yaml"
    path.write_text(program)
    report = json.loads(output_of(capsys, "pim", "run", "--program", str(path), "--json"))
    assert report["command_counts"]["MAC16"] == 32 * 1000 * 64


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.trace.gz").write_text("LD 0x40\nST 0x80\n")
    # docs/tutorial.md: with its commands
    for document in ("README.md", "docs/preprocessing.md", "docs/traces.md", "docs/pim.md"):
        for example in blocks(document, "python"):
            exec(example, {})
    assert capsys.readouterr().out


def test_every_field_of_the_report_is_described(capsys):
    report = json.loads(output_of(capsys, "dram", "run", "-n", "1000", "--json"))
    table = (
        (ROOT / "docs" / "usage.md")
        .read_text()
        .partition("Fields of `--json`")[2]
        .partition("**Causes.**")[0]
    )
    described = set(re.findall(r"`(\w+)`", table))
    assert set(report) <= described


def test_every_parameter_of_a_controller_is_described(capsys):
    (controller, *_) = (
        p["controller"] for p in json.loads(output_of(capsys, "profiles", "--json"))["profiles"]
    )
    table = (
        (ROOT / "docs" / "usage.md").read_text().partition("**Controller.**")[2].partition("**Report.**")[0]
    )
    assert set(controller) <= set(re.findall(r"`(\w+)`", table))


def test_every_mapping_and_pattern_is_described():
    usage, traces = ((ROOT / "docs" / name).read_text() for name in ("usage.md", "traces.md"))
    assert all(f"`{name}`" in usage for name in mapping_names())
    assert all(f"`{name}`" in traces for name in PATTERNS)


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "explain",
        "compare",
        "reproduce",
        "dram run",
        "dram check",
        "dram curve",
        "pim run",
        "stream run",
    ],
)
def test_every_option_of_the_examples_exists(command, capsys):
    helped = output_of(capsys, *command.split(), "--help")
    for document in DOCS:
        for example in re.findall(rf"neardata {command} (.*)", document.read_text()):
            for option in re.findall(r"(?<!\w)(--[a-z-]+)", example.partition("#")[0].partition("&&")[0]):
                assert option in helped, (document.name, option)


@pytest.mark.parametrize("command", ["run", "dram run"])
def test_every_option_is_described(command, capsys):
    helped = output_of(capsys, *command.split(), "--help")
    described = (ROOT / "docs" / "usage.md").read_text()
    for option in set(re.findall(r"--[a-z][a-z-]+", helped)) - {"--help", "--why", "--plots"}:
        assert f"`{option}" in described, option


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_device_that_is_named_exists(document, capsys):
    names = {d["name"] for d in json.loads(output_of(capsys, "devices", "--json"))["devices"]}
    named = set(
        re.findall(
            r"(?:-d|--device|show|device:) ((?:ddr|lpddr|gddr|hbm|attacc)[a-z0-9-]+)", document.read_text()
        )
    )
    assert named <= names


def test_every_file_of_test_data_is_described_once():
    table = (ROOT / "tests" / "data" / "README.md").read_text()
    described = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in row.split(", ")
    ]
    assert len(described) == len(set(described))
