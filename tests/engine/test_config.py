"""Settings: what a profile gives, what a user may change, and how errors are reported."""

import contextlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualtask_lite.engine.config import STAGES, Settings, parse_assignments
from dualtask_lite.engine.profiles import PROFILES
from dualtask_lite.errors import DualTaskError
from dualtask_lite.method.losses import PAPER_WEIGHTS

DISTANCE_ONLY = {"objective.weights": {"seg": 0, "conv_distance": 0}}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_profile_and_stage_resolves_and_survives_a_round_trip(profile, stage, tmp_path):
    settings = Settings.of(profile, {"stage": stage})
    settings.write(tmp_path / "config.yaml")
    assert Settings.read(tmp_path / "config.yaml") == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_the_paper_profile_has_the_paper_s_numbers():
    paper = Settings.of("paper", {"stage": "tumour-fine"})
    assert paper.objective.weights == PAPER_WEIGHTS
    assert (paper.network.width, paper.network.standardise) == (32, True)
    optimiser = paper.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.weight_decay, optimiser.schedule) == (
        "adam",
        1e-4,
        5e-4,
        "poly",
    )
    assert (paper.augment.scale, paper.augment.rotation, paper.augment.elastic) == (0.2, 15, 0.1)


def test_paper_tumour_stages_have_the_regions_of_the_method():
    coarse = Settings.of("paper", {"stage": "tumour-coarse"}).sample
    assert 5e6 < np.prod(coarse.patch) <= 6e6
    fine = Settings.of("paper", {"stage": "tumour-fine"}).sample
    assert np.prod(fine.patch) < np.prod(coarse.patch)
    assert fine.foreground == 1
    assert [name for name, stage in STAGES.items() if stage.jitter] == ["tumour-fine"]
    assert all(stage.jitter <= stage.margin for stage in STAGES.values())


def test_pancreas_stages_have_no_slice_head_and_no_contrast():
    assert not {"feat", "slice"} & set(Settings.of("paper", {"stage": "pancreas-fine"}).objective.weights)


def test_one_weight_changes_alone():
    before = Settings.of("gpu").objective.weights
    after = Settings.of("gpu", {"objective.weights.feat": 0.5}).objective.weights
    assert after == before | {"feat": 0.5}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"optimiser.stpes": 5}, "did you mean 'optimiser.steps'"),
        ({"steps": 5}, "did you mean 'optimiser.steps'"),
        ({"objective.weights.dista": 1}, "did you mean 'dist'"),
        ({"optimiser.steps": "many"}, "optimiser.steps"),
        ({"prediction.flips": 2}, "set prediction.flips to 1, or augment.flip above 0"),
        ({"optimiser.steps": 0}, "optimiser.steps"),
        ({"sample.patch": [30, 32, 32]}, "multiple of 8"),
        ({"sample.spacing": [0, 1, 1]}, "sample.spacing"),
        ({"optimiser.lr": float("nan")}, "optimiser.lr"),
        ({"network.width": 12}, "network.width"),
        ({"stage": "tumor-coarse"}, "stage"),
        ({"profile": "desktop"}, "profile"),
        ({"views.count": 1, "objective.weights.out": 1}, "views.count"),
        ({"views.kernel_sizes": [3, 4]}, "views.kernel_sizes"),
        ({"views.kernel_sizes": []}, "views.kernel_sizes"),
        ({"objective.weights.seg": 0, "objective.weights.dist": 0}, "seg and dist"),
        (DISTANCE_ONLY | {"prediction.heads": "segmentation"}, "heads is segmentation, but no term of the objective"),
        ({"prediction.heads": "distance", "objective.weights": {"dist": 0, "conv_mask": 0}}, "heads is distance, but"),
        ({"objective": 3}, "objective"),
    ],
)
def test_a_slip_is_named_with_the_nearest_valid_name(overrides, named):
    with pytest.raises(DualTaskError, match=named.replace(".", r"\.")):
        Settings.of("laptop", overrides)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00", "!!python/object/apply:os.system ['true']", "3"])
def test_a_file_that_is_no_settings_file_is_refused(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(DualTaskError, match=r"config\.yaml"):
        Settings.read(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {source: a}\nseed: 1\ndata: {held_out: C}\n", "line 3, column 1: 'data' is repeated, first in line 1"),
        ("data:\n  source: a\n  source: b\n", "line 3, column 3: 'source' is repeated, first in line 2"),
        ("a: {b: [{c: 1, c: 1}]}", "line 1, column 16: 'c' is repeated"),
        ("seed: 1\noptimiser:\n\tsteps: 3\n", "line 3, column 1: found character '\\t'"),
        ("seed: 1\n  steps: 3\n", "line 2, column 8: "),
        ("seed: 1\nda\x00ta: 1\n", "line 2, column 3: the character '\\x00' is not allowed"),
        ("seed: [1\n", "line 2, column 1: "),
    ],
)
def test_yaml_error_has_line_and_column(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DualTaskError, match=re.escape(f"config.yaml: cannot be read as YAML ({message}")):
        Settings.read(tmp_path / "config.yaml")
    with pytest.raises(DualTaskError, match=re.escape(f": cannot be read as YAML ({message}")):
        parse_assignments([f"data={text}"])


@pytest.mark.parametrize("text", ["!!int abc", "!!timestamp x", "!!float no", "!!bool perhaps"])
def test_a_value_that_is_not_of_its_marked_type_is_refused(text):
    with pytest.raises(DualTaskError, match="cannot be read as YAML"):
        parse_assignments([f"seed={text}"])


@pytest.mark.parametrize("text", ["[" * 10_000, "{a: " * 10_000, "".join(" " * n + "a:\n" for n in range(2000))])
def test_yaml_that_is_nested_too_deeply_is_refused(text):
    with pytest.raises(DualTaskError, match=r"cannot be read as YAML \(it is nested too deeply\)"):
        parse_assignments([f"data={text}"])


DATES = ["2024-01-02", "2024-13-45", "2024-01-02 10:00:00"]
NUMBERS = ["12", "0", "-3", "+5", "001", "017", "100047_00002", "0x1F", "0b1", "12:30", "1_0.5", "00.5", ".5", "1e5"]
WORDS = ["no", "No", "yes", "on", "OFF", "="]


@pytest.mark.parametrize("name", [*DATES, *NUMBERS, *WORDS])
def test_a_name_is_what_was_typed(name, tmp_path):
    settings = Settings.of("laptop", parse_assignments([f"data.held_out={name}", f"data.cases=[{name}, b]"]))
    assert (settings.data.held_out, settings.data.cases) == (name, (name, "b"))
    (tmp_path / "typed.yaml").write_text(f"data:\n  held_out: {name}\n  cases:\n  - {name}\n  - b\n")
    assert Settings.read(tmp_path / "typed.yaml") == settings
    settings.write(tmp_path / "config.yaml")
    assert Settings.read(tmp_path / "config.yaml") == settings


@pytest.mark.parametrize("name", ["1.10", "1.5e-4", "true", "False"])
def test_a_name_that_is_known_only_in_quotes_needs_them(name):
    for assignment in (f"data.held_out={name}", f"data.cases=[{name}]", f"data.source={name}"):
        with pytest.raises(DualTaskError, match="put it in quotes"):
            Settings.of("laptop", parse_assignments([assignment]))
    quoted = parse_assignments([f'data.held_out="{name}"', f"data.cases=['{name}']"])
    data = Settings.of("laptop", quoted).data
    assert (data.held_out, data.cases) == (name, (name,))


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("optimiser.steps=20_000", 20_000),
        ("optimiser.steps=010", 10),
        ("optimiser.lr=1e-4", 1e-4),
        ("optimiser.lr=1.5e-4", 1.5e-4),
        ("optimiser.lr=.5", 0.5),
        ("views.keep_first=yes", True),
        ("machine.check_memory=off", False),
        ("data.held_out=null", None),
        ("data.held_out=", None),
    ],
)
def test_numbers_and_truth_values_may_be_written_as_before(assignment, value):
    section, _, name = assignment.partition("=")[0].partition(".")
    assert getattr(getattr(Settings.of("laptop", parse_assignments([assignment])), section), name) == value


def test_a_word_that_is_no_truth_value_is_shown():
    with pytest.raises(DualTaskError, match=r"views\.keep_first.*'maybe'"):
        Settings.of("laptop", parse_assignments(["views.keep_first=maybe"]))


def test_a_setting_of_a_section_in_one_line_of_a_file_is_explained(tmp_path):
    (tmp_path / "flat.yaml").write_text("optimiser.steps: 3\n")
    with pytest.raises(DualTaskError, match=r"'optimiser.steps' stands in one line; write optimiser: and below it"):
        Settings.read(tmp_path / "flat.yaml")


def test_an_empty_file_gives_the_laptop_profile(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert Settings.read(tmp_path / "empty.yaml") == Settings.of("laptop")


def test_overrides_precede_the_file_and_the_file_the_profile(tmp_path):
    (tmp_path / "c.yaml").write_text("profile: gpu\nseed: 3\noptimiser: {steps: 7}\n")
    settings = Settings.read(tmp_path / "c.yaml", {"seed": 4})
    assert (settings.profile, settings.seed, settings.optimiser.steps) == ("gpu", 4, 7)
    assert settings.optimiser.lr == Settings.of("gpu").optimiser.lr


@pytest.mark.parametrize("new", [{"stage": "pancreas-coarse"}, {"profile": "gpu"}, {"profile": "reference"}])
@pytest.mark.parametrize("profile", ["laptop", "colab", "paper"])
def test_all_settings_of_a_run_do_not_hold_back_another_profile_or_stage(tmp_path, profile, new):
    """Only what the run changed is kept: its other numbers are those of its own profile and stage."""
    Settings.of(profile, {"optimiser.steps": 7, "data.held_out": "B"}).write(tmp_path / "config.yaml")
    expected = Settings.of(new.get("profile", profile), {"optimiser.steps": 7, "data.held_out": "B"} | new)
    assert Settings.read(tmp_path / "config.yaml", new) == expected


def test_a_short_file_keeps_each_of_its_settings_in_another_profile(tmp_path):
    """Also one that equals its own profile: somebody wrote it."""
    steps = Settings.of("laptop").optimiser.steps
    (tmp_path / "c.yaml").write_text(f"profile: laptop\noptimiser: {{steps: {steps}}}\n")
    assert Settings.read(tmp_path / "c.yaml", {"profile": "gpu"}) == Settings.of("gpu", {"optimiser.steps": steps})


def test_assignments_are_yaml():
    assert parse_assignments(["sample.patch=[32, 32, 16]", "views.keep_first=true", "data.held_out=C"]) == {
        "sample.patch": [32, 32, 16],
        "views.keep_first": True,
        "data.held_out": "C",
    }
    assert parse_assignments(["a=[0, -2, 0.5, 1.0e-05, False, ~]"]) == {"a": [0, -2, 0.5, 1e-5, False, None]}
    assert parse_assignments(["a={<<: {b: 1}, c: 2}"]) == {"a": {"b": 1, "c": 2}}
    with pytest.raises(DualTaskError, match="key=value"):
        parse_assignments(["steps"])


@given(
    st.text(max_size=30),
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers())),
)
def test_no_setting_ends_in_another_exception(name, value):
    with contextlib.suppress(DualTaskError):
        Settings.of("laptop", {name: value})
