import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import Table

from dfscan import calibrate, score, storage
from dfscan.commands.calibrate.triage_fit import LEVEL, RECALL, choose_pass_threshold
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.train import InputConfig
from dfscan.errors import ConfigError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, load_model, save_model
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.schemas.records import VERDICT_SCHEMA

FULL, QUICK = Sampling(frames=32), Sampling(frames=32, mode="keyframes")
RECIPE = FaceRecipe(sampling=FULL, input=network_input("mesoinception4", InputConfig(size=64)))


# ---------------------------------------------------------------- the border


def test_the_bound_holds_for_the_fakes_that_were_not_seen() -> None:
    rng = np.random.default_rng(0)
    for count in (299, 500, 2000):
        below = 0
        for _ in range(400):
            border, bound = choose_pass_threshold(rng.normal(0, 1, count))
            assert bound >= RECALL
            share = (rng.normal(0, 1, 20_000) >= border).mean()
            below += share < bound - 0.0005
        assert below / 400 < 2 * (1 - LEVEL)


def test_more_fakes_allow_misses() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, 2000)
    assert choose_pass_threshold(scores[:299])[0] == scores[:299].min()
    assert (scores < choose_pass_threshold(scores)[0]).sum() == 12
    assert choose_pass_threshold(np.append(scores[:1999], np.inf))[0] < np.inf


@pytest.mark.parametrize("count", [0, 1, 298])
def test_too_few_fakes_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"{count} fakes .* needs 299 or more"):
        choose_pass_threshold(np.zeros(count))


# ---------------------------------------------------------------- the verb


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    header = ModelHeader(backbone="mesoinception4", recipe=RECIPE)
    save_model(tmp_path / "m.safetensors", create_network("mesoinception4", 64), header)
    return tmp_path / "m.safetensors"


def write(path: Path, model: Path, sampling: Sampling, scores: Any, reals: int) -> Path:
    recipe = RECIPE.model_copy(update={"sampling": sampling})
    sha256 = storage.sha256(model.read_bytes())
    custody = {"recipe_hash": recipe.legacy_hash(), "config_hash": "c", "models": [sha256]}
    rows = [
        dict.fromkeys(VERDICT_SCHEMA.names)
        | {
            "video_id": f"clips/{i:05}.mp4",
            "label": "REAL" if i < reals else "FAKE",
            "score_raw": score,
            "frames": [{"frame_index": 0, "score_raw": score}] if score is not None else [],
            "custody": custody,
        }
        for i, score in enumerate(scores)
    ]
    record = {"c": {"recipe": recipe.model_dump(mode="json"), "models": [sha256]}}
    metadata = {**VERDICT_SCHEMA.metadata, "dfscan.score": json.dumps(record)}
    table = Table.from_pylist(rows, schema=VERDICT_SCHEMA).replace_schema_metadata(metadata)
    storage.commit_table(path, table)
    return path


def drawn(model: Path, reals: int, fakes: int, none: int = 0) -> tuple[Path, Path]:
    """Verdicts of the full look, and of key frames, which know less; of ``none`` fakes nothing."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.normal(-3, 1, reals), rng.normal(3, 1, fakes)])
    quick = [float(s) for s in truth + rng.normal(0, 1, len(truth))]
    quick = [*quick[:reals], *[None] * none, *quick[reals + none :]]
    return (
        write(model.with_name("full.parquet"), model, FULL, truth.tolist(), reals),
        write(model.with_name("quick.parquet"), model, QUICK, quick, reals),
    )


def test_the_new_model_knows_what_key_frames_miss(model: Path) -> None:
    full, quick = drawn(model, 500, 600, none=5)
    out = model.with_name("new.safetensors")
    result = calibrate(str(model), str(full), quick=str(quick), out=str(out))
    header = load_model(out).header
    known, fitted = header.triage, header.calibrated("mean", "exact")
    assert known is not None
    assert fitted is not None
    assert known.recall >= RECALL
    assert known.calibration.sampling == QUICK
    rows = {r["video_id"]: r["score_raw"] for r in storage.read_table(quick).to_pylist()}
    deep = settled = flagged = 0
    for row in storage.read_table(full).to_pylist():
        score = rows[row["video_id"]]
        goes = score is None or known.calibration.p_fake(score) >= known.deep_if
        if row["label"] == "REAL":
            settled += not goes
        elif fitted.p_fake(row["score_raw"]) >= header.threshold:
            flagged += 1
            deep += goes
    assert flagged == known.flagged
    assert deep / flagged >= RECALL
    assert settled > 400
    (told,) = [n for n in result.notes if n.startswith("triage: ")]
    assert f"{settled / 500:.1%} of 500 reals" in told


def test_the_triage_is_lost_with_another_calibration_and_that_is_said(model: Path) -> None:
    full, quick = drawn(model, 300, 400)
    out = model.with_name("new.safetensors")
    calibrate(str(model), str(full), quick=str(quick), out=str(out))
    sha256 = storage.sha256(out.read_bytes())
    rows = storage.read_table(full).to_pylist()
    for row in rows:
        row["custody"]["models"] = [sha256]
    table = Table.from_pylist(rows, schema=VERDICT_SCHEMA)
    storage.commit_table(full, table.replace_schema_metadata(VERDICT_SCHEMA.metadata))
    again = calibrate(str(out), str(full), out=str(model.with_name("again.safetensors")))
    assert load_model(Path(again.out)).header.triage is None
    assert any("has no triage" in note for note in again.notes)


def test_verdicts_of_other_frames_are_refused(model: Path) -> None:
    full, quick = drawn(model, 300, 400)
    out = str(model.with_name("new.safetensors"))
    with pytest.raises(ConfigError, match=r"give verdicts of key frames .* got exact and exact"):
        calibrate(str(model), str(full), quick=str(full), out=out)
    with pytest.raises(ConfigError, match="got keyframes and keyframes"):
        calibrate(str(model), str(quick), quick=str(quick), out=out)
    assert not Path(out).exists()


def test_from_verdicts_to_a_triage_that_scores(model: Path, corpus: Corpus, tmp_path: Path) -> None:
    """The whole way with few videos: refused, with the number that it takes."""
    common = {"model": str(model), "inline": True, "frames": 3}
    score(str(corpus.test), out=str(tmp_path / "full.parquet"), **common)
    score(str(corpus.test), out=str(tmp_path / "k.parquet"), sampling="keyframes", **common)
    with pytest.raises(ConfigError, match=r"needs 8|needs 299"):
        calibrate(
            str(model), str(tmp_path / "full.parquet"), quick=str(tmp_path / "k.parquet"),
            out=str(tmp_path / "new.safetensors"),
        )  # fmt: skip
