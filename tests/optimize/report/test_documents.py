"""The JSON document."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from optimize.manifest import Status
from optimize.report import as_json
from tests.optimize.report import results


def test_document_has_the_published_keys() -> None:
    document = json.loads(as_json([results.won()]))
    assert list(document) == ["models"]
    (model,) = document["models"]
    told = {"name", "exit", "release", "reason", "winner", "candidates", "operating_points", "judgements"}
    assert set(model) == told
    assert set(model["winner"]) == {"candidate", "precision", "runtime", "version", "path"}
    candidate = model["candidates"][3]
    assert set(candidate) == {"name", "precision", "runtime", "status", "reason", "verdicts"}
    assert set(candidate["verdicts"][0]) == {"budget", "limit", "observed", "low", "high", "n", "verdict"}


def test_document_holds_what_was_found() -> None:
    (model,) = json.loads(as_json([results.won()]))["models"]
    assert (model["name"], model["exit"], model["release"]) == ("sentiment", 0, True)
    assert model["winner"]["version"] == 3
    statuses = [candidate["status"] for candidate in model["candidates"]]
    assert statuses == ["not-measured", "over-budget", "n/a", "winner", "screened-out"]
    assert set(statuses) < set(get_args(Status))
    by_budget = {verdict["budget"]: verdict for verdict in model["candidates"][1]["verdicts"]}
    assert (by_budget["size.mb"]["observed"], by_budget["size.mb"]["verdict"]) == (91, "FAIL")


def test_document_tells_how_the_version_is_run_and_where_it_was_judged() -> None:
    (model,) = json.loads(as_json([results.won()], served={"sentiment": results.served()}))["models"]
    assert (model["operating_points"]["online"]["instances"], model["operating_points"]["bulk"]["batch"]) == (2, 32)
    server, small, broken = model["judgements"]
    assert (server["machine"]["cores"], server["exit"], server["created"][:10]) == (64, 0, "2026-03-02")
    failed = [verdict["budget"] for verdict in small["verdicts"] if verdict["verdict"] == "FAIL"]
    assert (small["exit"], failed) == (1, ["latency.p99_ms", "speed.min_speedup", "cost.max_per_million"])
    assert (broken["exit"], broken["reason"], broken["verdicts"]) == (4, "the disk is full", [])


def test_nothing_published_has_no_points_and_no_judgements() -> None:
    (model,) = json.loads(as_json([results.broken()], served={"sentiment": results.served()}))["models"]
    assert (model["operating_points"], model["judgements"]) == ({"online": None, "bulk": None}, [])


def test_no_winner_is_null() -> None:
    (model,) = json.loads(as_json([results.broken()]))["models"]
    assert (model["winner"], model["exit"], model["candidates"]) == (None, 2, [])


@pytest.mark.parametrize("heavy", ["altair", "vl_convert", "jinja2", "numpy", "torch", "onnxruntime"])
def test_telling_a_result_loads_no_heavy_library(heavy: str) -> None:
    program = f"import sys, optimize.report; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_key_and_status_is_documented() -> None:
    described = (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    example = json.loads(described.partition("```json")[2].partition("```")[0])
    (model,) = json.loads(as_json([results.won()], served={"sentiment": results.served()}))["models"]
    (shown,) = example["models"]
    assert set(shown["operating_points"]) == set(model["operating_points"])
    assert set(shown["operating_points"]["online"]) == set(model["operating_points"]["online"])
    assert set(shown["judgements"][0]) == set(model["judgements"][0])
    assert set(shown["judgements"][0]["machine"]) == set(model["judgements"][0]["machine"])
    assert set(shown) == set(model)
    assert set(shown["winner"]) == set(model["winner"])
    assert set(shown["candidates"][0]) == set(model["candidates"][0])
    assert set(shown["candidates"][0]["verdicts"][0]) == set(model["candidates"][1]["verdicts"][0])
    assert all(f"| `{status}` |" in described for status in get_args(Status))
