"""``neardata search``: what it finds can be read, edited and run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from neardata.cli.app import run as neardata

STUDY = """
title: small
model: mixtral-8x7b
layers: 1
context: 256
batch: [4]
systems:
  AiM:
    system: aim
    mapping: {on_pim: everything, products: PRODUCTS}
"""


@pytest.fixture
def study(tmp_path: Path):
    def make(products: str) -> str:
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace("PRODUCTS", products))
        return str(path)

    return make


def record(capsys, what: str) -> dict:
    assert neardata(["run", what, "--json"]) == 0
    (point,) = json.loads(capsys.readouterr().out)["points"]
    return point


def test_search_save_edit_run(study, tmp_path, capsys):
    saved = tmp_path / "forms.yaml"
    assert neardata(["search", study("{}"), "--save", str(saved), "--json"]) == 0
    found = {r["operator"]: r for r in json.loads(capsys.readouterr().out)["operators"]}
    assert {"attention.q", "router", "experts.down", "head"} <= set(found)
    for each in found.values():
        assert each["roofline_ps"] < each["time_ps"] <= each["default_ps"] == each["given_ps"]
        assert each["gap"] == each["time_ps"] / each["roofline_ps"]
    forms = yaml.safe_load(saved.read_text())
    assert forms["device"] == "gddr6-aim" and set(forms["products"]) == set(found)
    assert "times the roofline" in saved.read_text()
    assert forms["products"]["router"]["k_parts"] == 32 and "channels" not in forms["products"]["router"]

    times = {name: record(capsys, study(name))["step_ns"] for name in ("{}", "searched", str(saved))}
    assert times["searched"] == times[str(saved)] < times["{}"]

    forms["products"]["router"] = {"k_parts": 2, "channels": 8, "order": "output-stationary"}
    saved.write_text(yaml.safe_dump(forms))
    assert times[str(saved)] < record(capsys, study(str(saved)))["step_ns"]
    assert neardata(["search", study(str(saved)), "--operator", "router", "--json"]) == 0
    (router,) = json.loads(capsys.readouterr().out)["operators"]
    assert router["given_ps"] > router["time_ps"] == found["router"]["time_ps"]
    assert neardata(["explain", study(str(saved)), "--operator", "router"]) == 0
    text = capsys.readouterr().out
    for line in (
        "for part in 2 of k, side by side: 2,048 inputs and 4 channels each",
        "processor: adds 2 partial sums of each output, 128 bytes",
        "channels without work: 24 of 32",
        "layer0.router.sum on controller, after layer0.router",
    ):
        assert line in text


def test_the_text(study, capsys):
    assert neardata(["search", study("{router: {k_parts: 2}}"), "-o", "router"]) == 0
    text = capsys.readouterr().out
    assert "router: 4 x 8 x 4096 (1 times), on 32 channels of gddr6-aim" in text
    assert "for part in 32 of k, side by side: 128 inputs and 1 channels each" in text
    assert "times the roofline" in text and "default form" in text


@pytest.mark.parametrize(
    "products, message",
    [
        (
            "{router: {k_parts: 3}}",
            "study.yaml:10: systems.AiM.mapping.products.router.k_parts: 32 channels in",
        ),
        ("{experts.up: {channels: 64}}", "products.experts.up.channels: must be from 1 to 32"),
        ("{router: {order: sideways}}", "router.order: 'sideways' is not one of output-stationary, input-st"),
        ("{router: {own_row: true}}", "router.own_row: unknown key; did you mean own_rows?"),
        ("{rooter: {k_parts: 2}}", "products.rooter: the model has no such product; did you mean router"),
        ("serched", "mapping.products: 'serched' is neither 'searched' nor a file .yaml"),
        ("missing.yaml", "missing.yaml: cannot be read"),
    ],
)
def test_illegal_edits(study, capsys, products, message):
    for command in ("run", "search", "explain"):
        assert neardata([command, study(products)]) == 2
        out, err = capsys.readouterr()
        assert message in err and err.count("\n") == 1 and not out


def test_saved_programs(study, tmp_path, capsys):
    saved = tmp_path / "program.yaml"
    assert neardata(["explain", study("searched"), "--save", str(saved)]) == 0
    assert neardata(["search", str(saved), "-o", "router"]) == 0
    capsys.readouterr()
    text = saved.read_text()
    saved.write_text(text.replace("schema: 2", "schema: 1"))
    assert neardata(["run", str(saved)]) == 2
    assert "program.yaml:1: schema: is 1; this version reads schema 2" in capsys.readouterr().err
    saved.write_text(text.replace("schema: 2\n", ""))
    assert neardata(["run", str(saved)]) == 2
    assert "program.yaml:1: schema: missing; this version reads schema 2" in capsys.readouterr().err
    data = yaml.safe_load(text)
    router = next(t for t in data["tasks"] if t["name"] == "layer0.router")
    router["kernel"]["k_parts"] = 5
    saved.write_text(yaml.safe_dump(data, sort_keys=False))
    assert neardata(["run", str(saved)]) == 2
    err = capsys.readouterr().err
    assert "program.yaml:" in err and "tasks.layer0.router: k_parts: 32 channels in equal numbers" in err


def test_nothing_to_search(capsys):
    assert neardata(["search", "quickstart.yaml", "-s", "A100"]) == 2
    assert "no product with weights runs in a memory of a100" in capsys.readouterr().err
    assert neardata(["search", "quickstart.yaml", "-s", "AiM devices", "-o", "rooter"]) == 2
    assert "contains 'rooter'; did you mean router" in capsys.readouterr().err


def test_attention_is_explained(tmp_path, capsys):
    """Windows, causality, and bytes that no cache can hold."""
    assert neardata(["explain", "mistral-7b-v0.1", "-s", "a100", "--layers", "1", "--context", "8192"]) == 0
    text = capsys.readouterr().out
    assert "for c in context[s] before q and q itself, of the last 4,096 (up to 8192)" in text
    assert "of them in memory" in text
