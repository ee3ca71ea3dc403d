from pathlib import Path

import msgspec
import pytest

from optimize.commands.export import _next_commands
from tests.optimize.report import results

BUDGETS = Path("budgets.toml")


def test_winner_can_be_served_while_other_models_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = str(tmp_path / "artifacts")
    assert _next_commands(results.won(), BUDGETS, place, ["other"])[0] == (
        "optimize serve",
        "serve sentiment now; other follows here",
    )
    assert _next_commands(results.won(), BUDGETS, place, [])[0] == ("optimize serve", "serve sentiment now")


def test_commands_name_the_registry_and_the_budgets_file_where_they_are_not_the_usual_ones() -> None:
    serve, report, explain = _next_commands(results.won(), Path("my budgets.toml"), "s3://bucket/models", [])
    assert serve[0] == "optimize serve --registry s3://bucket/models"
    assert report[0] == "optimize report --budget 'my budgets.toml'"
    assert explain[0] == "optimize report --budget 'my budgets.toml' --explain fp32@onnxruntime-cpu"


@pytest.mark.parametrize(
    ("result", "commands"),
    [
        (results.broken(), []),
        (results.quick(), []),
        (results.inconclusive(), ["optimize report", "optimize report --explain int8-dynamic@onnxruntime-cpu"]),
    ],
)
def test_nothing_is_served_without_a_winner(result: msgspec.Struct, commands: list[str]) -> None:
    assert [command for command, _ in _next_commands(result, BUDGETS, "anywhere", [])] == commands
