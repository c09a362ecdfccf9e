import subprocess
import sys
from typing import get_args

import pytest

from dfscan import corpora
from dfscan.config import loading, types
from dfscan.config.annotate import AnnotateConfig
from dfscan.config.extract import ExtractConfig
from dfscan.config.loading import command_names, config_class, preset_names, resolve, section_name
from dfscan.config.quickstart import QuickstartConfig
from dfscan.config.score import ScoreConfig
from dfscan.config.stress import StressConfig
from dfscan.config.train import TrainConfig
from dfscan.config.verify import VerifyConfig
from dfscan.errors import ConfigError
from dfscan.schemas.recipe import SamplingMode
from dfscan.video import ORDERS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, no Ray address in the environment, presets of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    presets = tmp_path / "presets" / "extract"
    presets.mkdir(parents=True)
    (presets / "dense.yaml").write_text(
        "{stride: 5, workers: 2, ray_address: preset, unit_size: 4}"
    )
    return tmp_path


@pytest.fixture
def own_presets(folder, monkeypatch):
    monkeypatch.setattr(loading, "configs_folder", lambda: folder / "presets")


def write(folder, text):
    (folder / "dfscan.yaml").write_text(text)


@pytest.mark.usefixtures("own_presets")
def test_flag_beats_environment_beats_file_beats_preset_beats_default(folder, monkeypatch):
    write(folder, "extract: {workers: 3, ray_address: file, stride: 7}")
    monkeypatch.setenv("RAY_ADDRESS", "environment")
    found = resolve(ExtractConfig, {"stride": 9, "workers": None}, preset="dense")
    assert found.stride.real == 9
    assert found.ray_address == "environment"
    assert found.workers == 3
    assert found.unit_size == 4
    assert found.max_failed == 0.05

    assert resolve(ExtractConfig, {"ray_address": "flag"}).ray_address == "flag"
    monkeypatch.delenv("RAY_ADDRESS")
    assert resolve(ExtractConfig, {}, preset="dense").ray_address == "file"


def test_a_dotted_flag_reaches_into_a_section_and_leaves_the_rest(folder):
    write(folder, "extract: {crop: {quality: 80}}")
    crop = resolve(ExtractConfig, {"crop.context": 0.3}).crop
    assert (crop.quality, crop.context) == (80, 0.3)


def test_set_takes_yaml_values_by_dotted_path_and_beats_flags():
    sets = ["extract.detector.min_face=40", "extract.stride={real: 3, fake: 4}", "train.epochs=2"]
    found = resolve(ExtractConfig, {"stride": 9}, sets=sets)
    assert found.detector.min_face == 40
    assert (found.stride.real, found.stride.fake) == (3, 4)
    assert resolve(TrainConfig, {}, sets=sets).epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extract.workers", r"VERB\.KEY=VALUE"),
        ("workers=3", r"VERB\.KEY=VALUE"),
        ("extrat.workers=3", "unknown verb 'extrat': did you mean 'extract'"),
        ("extract.workers=[", "--set 'extract.workers=\\['"),
        ("extract.wrkers=3", r"unknown key 'extract\.wrkers': did you mean 'workers'"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        resolve(ExtractConfig, {}, sets=[text])


def test_the_run_section_is_shared_and_the_verbs_own_section_wins(folder):
    write(folder, "run: {workers: 5, inline: true}\ntrain: {workers: 6}")
    assert resolve(ExtractConfig, {}).workers == 5
    found = resolve(TrainConfig, {})
    assert (found.workers, found.inline) == (6, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extract: {strid: 3}", r"unknown key 'extract\.strid': did you mean 'stride'"),
        ("extract: {crop: {contxt: 1}}", r"'extract\.crop\.contxt': did you mean 'context'"),
        ("extrct: {}", r"dfscan\.yaml: unknown key 'extrct': did you mean 'extract'"),
        ("run: {epochs: 3}", r"unknown key 'run\.epochs': allowed: .*workers"),
        ("run: {overwrite: true}", r"unknown key 'run\.overwrite'"),
    ],
)
def test_an_unknown_key_is_named_by_its_path(folder, text, message):
    write(folder, text)
    with pytest.raises(ConfigError, match=message):
        resolve(ExtractConfig, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout: dfd", r"extract\.layout: got 'dfd'; should be 'auto', 'dfdc', 'ffpp'"),
        ("workers: 0", r"extract\.workers: got 0; should be greater than or equal to 1$"),
        ("stride: real=3", r"extract\.stride: got 'real=3'; .*real=30,fake=100"),
        (
            "detector: {min_face: 5}",
            r"extract\.detector\.min_face: got 5; should be 'auto'; .* 12$",
        ),
        ("detector: {min_score: 2, factor: 3}", "got [23]; should be less than [^;]*$"),
        ("out: 2024", r"extract\.out: got 2024; should be a valid string"),
        ("source: [3]", "got 3; should be a valid string"),
    ],
)
def test_a_bad_value_names_key_value_and_what_is_allowed(folder, text, message):
    write(folder, f"extract: {{{text}}}")
    with pytest.raises(ConfigError, match=message):
        resolve(ExtractConfig, {})


@pytest.mark.parametrize("text", ["- 1", "extract: [1]", "run: 3", "run: {1: 2}", "a: [", "\x00"])
def test_a_file_of_another_shape_is_one_clear_error(folder, text):
    write(folder, text)
    with pytest.raises(ConfigError, match=r"dfscan\.yaml"):
        resolve(ExtractConfig, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score: {modl: m}", "unknown key 'score.modl': did you mean 'model'?"),
        ("score: {evidence: {fraems: 3}}", "unknown key 'score.evidence.fraems': did you mean"),
        ("train: {epochs: 0}", "train.epochs: got 0; should be greater than or equal to 1"),
        (
            "train: {phases: [{train: head, lr: fast}]}",
            "train.phases.0.lr: got 'fast'; should be a",
        ),
        ("verify: [1]", "'verify' must hold keys and values, got [1]"),
        ("run: {workers: 0}", "run.workers: got 0; should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_in_a_section_stops_every_verb(folder, text, message):
    write(folder, text)
    for verb in map(config_class, command_names()):
        with pytest.raises(ConfigError) as caught:
            resolve(verb, {})
        assert str(caught.value).startswith(f"dfscan.yaml: {message}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["run", "train"])
def test_a_wrong_runtime_environment_is_not_repeated(folder, section):
    write(folder, f"{section}: {{runtime_env: 'AWS_SECRET_ACCESS_KEY=secret'}}")
    with pytest.raises(ConfigError, match=rf"{section}\.runtime_env: got str; should be") as caught:
        resolve(TrainConfig, {})
    assert "secret" not in str(caught.value)


def test_a_value_that_a_flag_replaces_must_be_allowed_all_the_same(folder):
    write(folder, "extract: {unit_size: many}")
    with pytest.raises(ConfigError, match=r"^dfscan\.yaml: extract\.unit_size: got 'many'"):
        resolve(ExtractConfig, {"unit_size": 5})


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("train: {mix: [1, 2]}", {"faces": ["a", "b"]}),
        ("train: {head: {kind: mlp}}", {"head.hidden": [8]}),
        ("train: {identities: {distance: 0.7}}", {"identities.weights": "w"}),
    ],
)
def test_what_keys_say_together_only_the_verb_that_runs_judges(folder, text, flags):
    write(folder, text)
    assert resolve(ScoreConfig, {}) == ScoreConfig()
    assert resolve(TrainConfig, flags)
    with pytest.raises(ConfigError, match=r"^train"):
        resolve(TrainConfig, {})


@pytest.mark.usefixtures("own_presets")
def test_a_file_may_say_half_of_what_a_preset_says(folder):
    (folder / "presets" / "extract" / "uneven.yaml").write_text("stride: {real: 3, fake: 9}")
    write(folder, "extract: {stride: {fake: 5}}")
    found = resolve(ExtractConfig, {}, preset="uneven")
    assert (found.stride.real, found.stride.fake) == (3, 5)
    assert resolve(TrainConfig, {}) == TrainConfig()


def test_an_empty_file_is_no_configuration(folder):
    write(folder, "# nothing yet\nextract:\n")
    assert resolve(ExtractConfig, {}) == ExtractConfig()


def test_a_named_file_replaces_the_one_in_the_folder_and_must_exist(folder):
    write(folder, "extract: {workers: 3}")
    (folder / "other.yaml").write_text("extract: {unit_size: 2}")
    found = resolve(ExtractConfig, {}, config_file="other.yaml")
    assert (found.workers, found.unit_size) == (None, 2)
    with pytest.raises(ConfigError, match=r"cannot read configuration absent\.yaml"):
        resolve(ExtractConfig, {}, config_file="absent.yaml")


@pytest.mark.usefixtures("own_presets")
def test_an_unknown_preset_suggests():
    with pytest.raises(
        ConfigError, match="unknown preset 'dens' for extract: did you mean 'dense'"
    ):
        resolve(ExtractConfig, {}, preset="dens")


@pytest.mark.parametrize(
    ("verb", "preset"),
    [(verb, preset) for verb in command_names() for preset in preset_names(verb)],
)
def test_every_shipped_preset_is_valid(verb, preset):
    resolve(config_class(verb), {}, preset=preset)


@pytest.mark.parametrize("verb", [config_class(name) for name in command_names()])
def test_every_verb_has_valid_defaults(verb):
    assert resolve(verb, {}) == verb()


def test_one_path_stands_for_a_list(tmp_path):
    assert resolve(ExtractConfig, {"source": tmp_path}).source == (str(tmp_path),)
    assert resolve(TrainConfig, {"faces": ["a", "b"]}).faces == ("a", "b")


def test_layout_takes_the_names_of_the_layouts_that_exist():
    assert set(get_args(types.Layout)) == {"auto", *corpora.LAYOUTS}


def test_scoring_looks_at_32_frames_unless_told_otherwise():
    assert resolve(ScoreConfig, {}).select("exact").frames == 32
    assert resolve(ScoreConfig, {"every": "1.5s"}).select("exact").every_s == 1.5
    assert resolve(ScoreConfig, {"stride": "10"}).select("exact").stride.of("FAKE") == 10


def test_two_ways_of_sampling_exclude_each_other():
    with pytest.raises(ConfigError, match="score: frames and every exclude each other"):
        resolve(ScoreConfig, {"frames": 8, "every": 1})


def test_the_recipe_holds_what_decides_about_pixels_and_nothing_else():
    plain, moved = ExtractConfig(), ExtractConfig(out="elsewhere", workers=3, unit_size=1)
    assert plain.recipe().hash() == moved.recipe().hash()
    assert ExtractConfig(phase=0).recipe().hash() != plain.recipe().hash()


def test_quickstart_defaults_do_not_need_ray_workers():
    assert resolve(QuickstartConfig, {}).workers is None


def test_a_flag_replaces_another_way_of_sampling_in_the_file(folder):
    (folder / "dfscan.yaml").write_text("score: {frames: 8}\n")
    config = resolve(ScoreConfig, {"every": "2s"})
    assert (config.every, config.frames) == (2.0, None)
    assert resolve(ScoreConfig, {}).frames == 8


@pytest.mark.parametrize("mode", get_args(SamplingMode))
def test_the_recipe_samples_as_configured(folder, mode):
    write(folder, f"extract: {{sampling: {mode}, stride: 7}}")
    recipe = resolve(ExtractConfig, {}).recipe()
    assert recipe.sampling.mode == mode
    assert recipe.sampling.stride.real == 7
    assert resolve(ExtractConfig, {"sampling": "exact"}).recipe().sampling.mode == "exact"
    assert resolve(ScoreConfig, {}).select(mode).mode == mode


def test_recipes_of_different_sampling_have_different_hashes():
    modes = get_args(SamplingMode)
    hashes = {resolve(ExtractConfig, {"sampling": mode}).recipe().hash() for mode in modes}
    assert len(hashes) == len(modes) == 3
    assert resolve(ExtractConfig, {}).recipe().hash() in hashes


def test_an_unknown_sampling_is_refused(folder):
    write(folder, "extract: {sampling: sometimes}")
    message = r"extract\.sampling: got 'sometimes'; should be 'exact', 'nearest' or 'keyframes'"
    with pytest.raises(ConfigError, match=message):
        resolve(ExtractConfig, {})


@pytest.mark.parametrize("mode", ["nearest", "keyframes"])
def test_boxes_of_the_original_need_exact_frames(folder, mode):
    write(folder, f"extract: {{sampling: {mode}}}")
    with pytest.raises(ConfigError) as caught:
        resolve(ExtractConfig, {"boxes_from": "original"})
    message = str(caught.value)
    assert "\n" not in message
    assert "boxes_from: original" in message
    assert f"sampling: {mode}" in message
    assert resolve(ExtractConfig, {"boxes_from": "original", "sampling": "exact"})


@pytest.mark.parametrize("verb", [ExtractConfig, ScoreConfig])
def test_decoders_are_those_that_there_is_an_order_for(verb):
    for decoder in ORDERS:
        assert resolve(verb, {"decoder": decoder}).decoder == decoder
    assert set(get_args(verb.model_fields["decoder"].annotation)) == set(ORDERS)
    for decoder in ("sparse", "opencv", ""):
        with pytest.raises(ConfigError, match="should be 'auto', 'decord' or 'pyav'"):
            resolve(verb, {"decoder": decoder})


def test_verifying_takes_from_the_file_what_scoring_says(folder):
    write(folder, "{score: {model: m, out: v.parquet, timeout: 7, frames: 3}, run: {workers: 2}}")
    found = resolve(VerifyConfig, {})
    assert (found.model, found.verdicts, found.timeout) == (("m",), "v.parquet", 7)
    assert found.workers == 2
    write(
        folder, "{score: {model: m, out: v.parquet}, verify: {model: [a, b], verdicts: w.parquet}}"
    )
    assert resolve(VerifyConfig, {}).model == ("a", "b")
    assert resolve(VerifyConfig, {"verdicts": "x.parquet"}).verdicts == "x.parquet"
    assert resolve(ScoreConfig, {}).model == ("m",)


@pytest.mark.parametrize("verb", command_names())
def test_what_a_verb_takes_from_score_is_there(folder, verb):
    config = config_class(verb)
    assert config.from_score.keys() <= config.model_fields.keys()
    assert set(config.from_score.values()) <= ScoreConfig.model_fields.keys()


@pytest.mark.parametrize("config", [AnnotateConfig, StressConfig])
def test_faces_become_one_score_as_scoring_says(folder, config):
    write(folder, "{score: {aggregation: confident}}")
    assert resolve(config, {}).aggregation == "confident"
    assert resolve(config, {"aggregation": "trimmed"}).aggregation == "trimmed"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"inline": True, "gpus": 2}, "train: inline trains in this process, on one GPU at most"),
        ({"gpus": 2, "workers": 4}, "train: on GPUs there is one worker a GPU, got workers 4"),
        ({"choose": "last", "patience": 2}, "train: choose: last finds every epoch better"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve(TrainConfig, flags)


def test_workers_and_gpus_that_agree_are_taken():
    assert resolve(TrainConfig, {"gpus": 2, "workers": 2}).gpus == 2
    assert resolve(TrainConfig, {"inline": True, "gpus": 1, "workers": 4}).workers == 4


def test_triage_is_known_of_one_model_and_the_mean():
    for flags in ({"model": ["a", "b"]}, {"sampling": "nearest"}, {"aggregation": "trimmed"}):
        with pytest.raises(ConfigError, match="triage is known of one model"):
            resolve(ScoreConfig, {"triage": True, **flags})


COMMANDS = (
    *("annotate", "calibrate", "evaluate", "export", "extract", "import_model", "inspect"),
    *("list_models", "purge", "quickstart", "report", "score", "stress", "train", "verify"),
)


def test_a_command_has_a_module_and_a_model_of_its_name():
    assert sorted(command_names()) == sorted(COMMANDS)
    for name in COMMANDS:
        assert section_name(config_class(name)) == name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_configuration_loads_neither_the_others_nor_heavy_libraries(name):
    program = f"import sys, dfscan.config.{name}; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    others = {f"dfscan.config.{other}" for other in COMMANDS if other != name}
    assert not others & set(found)
    assert not {"pyarrow", "torch", "ray", "rich", "numpy"} & set(found)
