import json
from pathlib import Path

import msgspec
import pytest

from optimize.errors import ArtifactError, BudgetsError, UserError
from optimize.manifest import Machine, encode
from optimize.registry import Registry
from optimize.report import outputs
from optimize.report.outputs import Findings
from tests.optimize.report import results
from tests.published import identity, publish

BUDGETS = """
schema = 1
registry = "store"
[models.identity]
source = "identity.onnx"
latency = { p99_ms = 50.0 }
dims = { batch = { min = 1, opt = 1, max = 8 } }
[models.other]
source = "other.onnx"
size = { mb = 4.0 }
"""


@pytest.fixture
def budgets(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text(BUDGETS)
    return path


def keep(budgets: Path, name: str, **changed: object) -> None:
    from optimize.budgets import load

    declared = load(budgets).models[name]
    made = msgspec.structs.replace(results.won(), name=name, **{"budgets": declared, **changed})
    Registry(budgets.parent / "store").keep(made)


def test_last_result_of_every_model_is_collected_in_the_order_of_the_file(budgets: Path) -> None:
    for name in ("other", "identity"):
        keep(budgets, name)
    keep(budgets, "other", reason="later")
    found = outputs.collect(budgets)
    assert [(result.name, result.reason) for result in found.results] == [
        ("identity", "int8-dynamic@onnxruntime-cpu wins"),
        ("other", "later"),
    ]
    assert (found.stale, found.absent) == (frozenset(), ())


def test_kept_result_comes_back_whole(budgets: Path) -> None:
    made = results.won()
    registry = Registry(budgets.parent / "store")
    registry.keep(made)
    assert (budgets.parent / "store" / "reports" / "sentiment" / "result.json").is_file()
    assert registry.result("sentiment") == made


def test_published_version_stands_in_where_no_result_is_kept(budgets: Path) -> None:
    manifest = publish(budgets.parent / "store", "identity", identity(), budgets.parent)
    (result,) = outputs.collect(budgets, ("identity",)).results
    assert result.winner is not None
    assert (result.winner.candidate, result.winner.version) == ("fp32@onnxruntime-cpu", 1)
    assert Path(result.winner.path or "").is_file()
    assert (result.exit, result.budgets, result.created) == (0, manifest.budgets, manifest.created)
    assert outputs.write(Findings((result,)), budgets.parent / "out", ("html",))[0].stat().st_size > 5_000


def test_model_that_was_never_exported_is_named(budgets: Path) -> None:
    keep(budgets, "other")
    found = outputs.collect(budgets)
    assert (found.absent, [result.name for result in found.results]) == (("identity",), ["other"])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("identity",), r"^identity: never exported to .*store; run `optimize export` first$"),
        ((), r"^identity, other: never exported"),
        (("unheard",), r"^model unheard is not in .*budgets\.toml; it declares identity, other$"),
    ],
)
def test_asking_for_what_is_not_there_is_the_users_error(budgets: Path, models: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        outputs.collect(budgets, models)


def test_budgets_that_changed_since_are_noticed(budgets: Path) -> None:
    keep(budgets, "identity")
    keep(budgets, "other")
    budgets.write_text(BUDGETS.replace("mb = 4.0", "mb = 5.0"))
    assert outputs.collect(budgets).stale == {"other"}


def test_missing_budgets_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BudgetsError, match="no such file"):
        outputs.collect(tmp_path / "budgets.toml")


@pytest.mark.parametrize("damage", ["{", '{"name": "other"}', '{"unknown": 1}'])
def test_damaged_result_is_named_with_its_cure(budgets: Path, damage: str) -> None:
    keep(budgets, "other")
    path = budgets.parent / "store" / "reports" / "other" / "result.json"
    path.write_text(damage)
    with pytest.raises(
        ArtifactError, match=r"result\.json: not a result of this release .*run `optimize export` again"
    ):
        outputs.collect(budgets)


def test_every_format_is_written_and_nothing_else(tmp_path: Path) -> None:
    written = outputs.write(Findings((results.won(), results.broken()), absent=("late",)), tmp_path / "new" / "out")
    assert [path.name for path in written] == ["report.html", "report.md", "report.json"]
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(path.name for path in written)
    html, markdown, document = (path.read_text(encoding="utf-8") for path in written)
    assert "int8-dynamic@onnxruntime-cpu wins" in html
    assert "Declared, but never exported: late." in html
    assert markdown.startswith("# 1 of 2 models has a winner")
    assert [model["name"] for model in json.loads(document)["models"]] == ["sentiment", "absent"]


def test_earlier_report_is_replaced(tmp_path: Path) -> None:
    for made in (results.won(), results.broken()):
        (path,) = outputs.write(Findings((made,)), tmp_path, ("md",))
    assert path.read_text().startswith("# absent: The export could not run")


def test_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/report\.md: cannot be written: .*, or name another folder"):
        outputs.write(Findings((results.broken(),)), tmp_path / "file", ("md",))


def test_half_written_report_never_takes_the_place_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = outputs.write(Findings((results.won(),)), tmp_path, ("md",))
    whole = path.read_text()

    def full(self: Path, *_: object, **__: object) -> int:
        with self.open("w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        outputs.write(Findings((results.broken(),)), tmp_path, ("md",))
    assert path.read_text() == whole
    assert list(tmp_path.iterdir()) == [path]


def validated(budgets: Path, machine: Machine, created: str) -> None:
    judged = msgspec.structs.replace(results.won(), name="identity", machine=machine, created=created)
    Registry(budgets.parent / "store").keep_judgement(1, judged)


def test_published_version_brings_its_operating_points_and_judgements(budgets: Path) -> None:
    manifest = publish(budgets.parent / "store", "identity", identity(), budgets.parent)
    path = budgets.parent / "store" / "models" / "identity" / "1" / "manifest.json"
    path.write_bytes(encode(msgspec.structs.replace(manifest, online=results.ONLINE)))
    for index, created in enumerate(("2026-02-02T00:00:00+00:00", "2026-03-03T00:00:00+00:00")):
        validated(budgets, Machine(f"processor {index}", 4, 8_000, ()), created)
    served = outputs.collect(budgets, ("identity",)).served["identity"]
    assert (served.online, served.bulk) == (results.ONLINE, None)
    assert [judged.machine.cpu for judged in served.judgements if judged.machine] == ["processor 1", "processor 0"]
    run = outputs.of_run(Registry(budgets.parent / "store"), outputs.collect(budgets, ("identity",)).results)
    assert run.served["identity"] == served
    text = outputs.document(outputs.collect(budgets, ("identity",)))
    assert json.loads(text)["models"][0]["judgements"][0]["machine"]["cpu"] == "processor 1"


def test_judgement_of_another_release_counts_as_none(budgets: Path) -> None:
    publish(budgets.parent / "store", "identity", identity(), budgets.parent)
    validated(budgets, Machine("a processor", 4, 8_000, ()), "2026-02-02T00:00:00+00:00")
    (path,) = (budgets.parent / "store" / "models" / "identity" / "1").glob("validated-*.json")
    path.write_text('{"rules": "of another release"}')
    assert outputs.collect(budgets, ("identity",)).served["identity"].judgements == ()


def test_winner_whose_manifest_is_gone_is_reported_all_the_same(budgets: Path) -> None:
    keep(budgets, "identity")
    assert outputs.collect(budgets, ("identity",)).served == {}
    (result,) = outputs.collect(budgets, ("identity",)).results
    damaged = budgets.parent / "store" / "models" / "identity" / str(result.winner.version) / "manifest.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert outputs.collect(budgets, ("identity",)).served == {}
