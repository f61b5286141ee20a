"""The command line as a user meets it: what it prints, what it leaves, how it ends."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from dualtask_lite.cases.case import Case, examine
from dualtask_lite.cases.phantom import make_case
from dualtask_lite.cases.sources import find_cases
from dualtask_lite.cli import app, main
from dualtask_lite.cli.shared import print_table
from dualtask_lite.engine import predict as prediction
from dualtask_lite.engine.doctor import Check, Diagnosis
from dualtask_lite.engine.judging import ablation, evaluation
from dualtask_lite.engine.judging.metrics import case_metrics
from dualtask_lite.engine.judging.summary import summarise_cells
from dualtask_lite.engine.records import read_rows
from dualtask_lite.words import counted

COMMANDS = [
    "doctor",
    "data list",
    "data get",
    "data check",
    "data make",
    "train",
    "predict",
    "evaluate",
    "ablate",
    "report",
    "export",
    "bench",
]


def call(*words, ok=True):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if ok and result.exit_code:
        raise AssertionError(f"{words}: {result.output}") from result.exception
    return result


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches_without_loading_torch(command):
    code = "import sys; from dualtask_lite.cli import app\n"
    code += f"try: app({[*command.split(), '--help']!r})\n"
    code += "except SystemExit as end: assert not end.code\nassert not {'torch', 'monai', 'IPython'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_version_is_that_of_the_package():
    assert call("--version").output == f"dualtask-lite {version('dualtask-lite')}\n"


def test_wrong_usage_is_exit_code_2(typed, tmp_path):
    assert typed("trian")[0] == 2
    assert typed("predict", tmp_path)[0] == 2
    assert typed("train", "--resume", tmp_path, "--profile", "gpu")[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--set", "optimiser.stpes=3"], "did you mean 'optimiser.steps'"),
        (["train", "--source", "phantm"], "did you mean 'phantom'"),
        (["train", "--held-out", "Z", "--set", "optimiser.steps=1"], "'Z'"),
        (["train", "--resume", "nowhere"], "holds no run"),
        (["data", "check", "nowhere"], "no such file or folder"),
        (["data", "make", "msd"], "make phantom or exam"),
        (["predict", "nowhere", "x.nii.gz", "-o", "out"], "no such model"),
        (["report", "nowhere"], "holds no run"),
        (["ablate", "--arm", "everything"], "choose from: segmentation"),
        (["ablate", "--protocol", "seen"], "choose from: in-domain"),
    ],
)
def test_user_error_is_one_line_with_exit_code_1(typed, monkeypatch, tmp_path, phantom_folder, words, message):
    monkeypatch.chdir(tmp_path)
    if words[:2] == ["train", "--held-out"]:
        words = [*words, "--source", phantom_folder]
    code, _, err = typed(*words)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_debug_shows_the_traceback(tmp_path):
    words = [sys.executable, "-m", "dualtask_lite", "--debug", "data", "check", str(tmp_path / "nowhere")]
    environment = {k: v for k, v in os.environ.items() if k != "DUALTASK_DEBUG"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("status", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 1)])
@pytest.mark.parametrize("words", [[], ["--json"]], ids=["text", "JSON"])
def test_doctor_ends_with_1_where_the_package_does_not_run(monkeypatch, status, code, words):
    """For a loop over the machines of a room."""
    found = Diagnosis((Check("torch", status, "found", "do this"),), {})
    monkeypatch.setattr("dualtask_lite.engine.doctor.diagnose", lambda: found)
    result = call("doctor", *words, ok=False)
    assert result.exit_code == code
    assert "do this" in result.output


def test_doctor_and_sources_as_json():
    assert {"checks", "ok"} <= set(json.loads(call("doctor", "--json").stdout))
    listed = json.loads(call("data", "list", "--json").stdout)
    assert listed["phantom"]["how"] == "made"
    assert "msd" in listed


def test_make_then_check(tmp_path):
    call("data", "make", "phantom", "--out", tmp_path / "p", "--cases", 1, "--size", 32, 32, 16, "--seed", 3)
    output = json.loads(call("data", "check", tmp_path / "p", "--json").stdout)
    assert output == {"cases": 3, "labelled": 3, "findings": [], "skipped": []}
    again = call("data", "make", "phantom", "--out", tmp_path / "p", ok=False)
    assert "is not empty" in str(again.exception)


def test_check_lists_a_bad_case_among_good_ones(typed, tmp_path):
    for name in ("a", "b"):
        case = make_case("A", 1, size=(24, 24, 12))
        nib.save(nib.Nifti1Image(case.image, case.affine), tmp_path / f"{name}.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:500])
    code, out, err = typed("data", "check", tmp_path)
    assert code == 1
    assert "found errors in 1 of 2 cases" in err
    assert "2 cases, 0 with a label, 1 with errors" in out


def test_train_leaves_a_run_for_each_stage(cascade):
    assert {folder.name for folder in cascade.iterdir()} == {"pancreas-coarse", "tumour-coarse"}
    manifest = json.loads((cascade / "tumour-coarse" / "manifest.json").read_text())
    assert manifest["held_out"] == "C"
    assert {case["centre"] for case in manifest["cases"]} == {"A", "B"}
    assert len(read_rows(cascade / "tumour-coarse" / "metrics.csv")) == 3


def test_run_is_not_overwritten_and_finished_run_resumes_unchanged(cascade, phantom_folder):
    words = ["train", "--stage", "tumour-coarse", "--source", phantom_folder, "--out", cascade / "tumour-coarse"]
    assert "holds a run already" in str(call(*words, ok=False).exception)
    before = (cascade / "tumour-coarse" / "model.safetensors").read_bytes()
    call("train", "--resume", cascade)
    assert (cascade / "tumour-coarse" / "model.safetensors").read_bytes() == before


SLIPS = {
    "no such source": ({"--source": "{data}x"}, "no such file or folder"),
    "no such centre": ({"--held-out": "Z"}, "there is no centre 'Z'"),
    "a case that cannot be read": ({"--source": "{spoiled}"}, "labelsTr"),
    "a later stage without its target": ({"--source": "{organs}"}, "tumour-coarse: none of the 6 labels"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_leaves_the_run_folder_free(typed, tmp_path, phantom_folder, tiny_run, slip):
    """Of one stage and of a cascade: the corrected command is typed again, and nothing goes on with the slip."""
    spoiled, organs = (shutil.copytree(phantom_folder, tmp_path / name) for name in ("spoiled", "organs"))
    for label in organs.glob("*/labelsTr/*.nii.gz"):
        image = nib.load(label)
        nib.save(nib.Nifti1Image(np.minimum(np.asarray(image.dataobj), 1), image.affine), label)
    for label in spoiled.glob("*/labelsTr/*_00[13].nii.gz"):
        label.write_bytes(label.read_bytes()[:200])
    changes, message = SLIPS[slip]
    options = {"--source": "{data}", "--held-out": "C"} | changes
    words = [
        word.format(data=phantom_folder, spoiled=spoiled, organs=organs) for pair in options.items() for word in pair
    ]
    words += [word for key, value in tiny_run.items() for word in ("--set", f"{key}={value}")]
    code, _, err = typed(
        "train", "--stage", "pancreas-coarse", "--stage", "tumour-coarse", *words, "-o", tmp_path / "run"
    )
    assert code == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def test_finished_run_is_reported_and_continues_with_more_steps(typed, cascade, tmp_path):
    run = shutil.copytree(cascade, tmp_path / "run")
    code, _, err = typed("train", "--resume", run)
    assert code == 0
    assert err.count("is finished with 3 steps; raise optimiser.steps in its config.yaml to continue") == 2
    config = run / "tumour-coarse" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 3", "steps: 5"))
    code, _, err = typed("train", "--resume", run)
    assert code == 0
    assert "is finished with 3 steps; continues to step 5" in err
    assert [json.loads((run / stage / "manifest.json").read_text())["steps"] for stage in sorted(os.listdir(run))] == [
        3,
        5,
    ]


def test_a_cascade_that_was_cut_is_resumed_from_any_folder(typed, tmp_path, monkeypatch, phantom_folder, tiny_run):
    """Also its stages that had not begun: they know where the cases lie."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(phantom_folder.parent)
    words = [word for key, value in tiny_run.items() for word in ("--set", f"{key}={value}")]
    words += [
        "--stage",
        "pancreas-coarse",
        "--stage",
        "tumour-coarse",
        "--source",
        phantom_folder.name,
        "--held-out",
        "C",
    ]
    with monkeypatch.context() as cut:
        cut.setattr("dualtask_lite.engine.records.write_json", lambda *_: sys.exit("power cut"))
        assert typed("train", *words, "-o", tmp_path / "run")[0] == "power cut"
    assert sorted(os.listdir(tmp_path / "run")) == ["pancreas-coarse", "tumour-coarse"]
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert typed("train", "--resume", tmp_path / "run")[0] == 0
    assert all((tmp_path / "run" / stage / "model.safetensors").exists() for stage in os.listdir(tmp_path / "run"))


def test_evaluate_uses_the_held_out_centre_and_refuses_others(cascade, tmp_path, phantom_folder):
    apart = [cascade / "tumour-coarse", cascade / "pancreas-coarse"]
    call("evaluate", *apart, "-o", tmp_path / "apart")  # the same cascade, named stage by stage
    words = ["evaluate", cascade, "-o", tmp_path]  # on what it was trained on, unless --source says otherwise
    output = json.loads(call(*words, "--json").stdout)
    assert set(output["summary"]) == {"pancreas", "tumour"}
    assert {row["centre"] for row in read_rows(tmp_path / "cases.csv")} == {"C"}
    assert len(read_rows(tmp_path / "cases.csv")) == 8
    assert read_rows(tmp_path / "apart" / "cases.csv") == read_rows(tmp_path / "cases.csv")
    apart = ["evaluate", cascade, "-o", tmp_path / "of A", "--centre", "A"]
    assert "was used in training" in str(call(*apart, ok=False).exception)


def test_an_empty_source_is_not_the_default(cascade):
    """As from a variable that is not set."""
    for words in (["evaluate", cascade], ["ablate"]):
        assert "a source in it is empty" in str(call(*words, "--source", "", ok=False).exception)


def test_evaluation_of_other_cases_is_not_overwritten_and_a_report_shows_its_own(cascade, tmp_path, phantom_folder):
    run = shutil.copytree(cascade, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    other = tmp_path / "other"
    call("data", "make", "phantom", "--cases", 2, "--seed", 7, "--size", 24, 24, 12, "-o", other)
    call("evaluate", run, "--source", other / "C")
    rows = read_rows(run / "evaluation" / "cases.csv")
    refused = str(call("evaluate", run, ok=False).exception)
    assert "holds the evaluation of other cases" in refused
    assert str(other / "C") in refused
    assert read_rows(run / "evaluation" / "cases.csv") == rows
    assert json.loads(call("report", run, "--json").stdout)["missing"] == {}
    call("evaluate", run, "--source", other / "C")  # the same again may be repeated


def test_an_interrupted_evaluation_keeps_its_finished_cases(typed, cascade, tmp_path, monkeypatch):
    run = shutil.copytree(cascade, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    folder = run / "evaluation"

    def interrupt_at(name):
        def examine_or_stop(case):
            if case.id == name:
                raise KeyboardInterrupt
            return examine(case)

        with monkeypatch.context() as cut:
            cut.setattr("dualtask_lite.cases.case.examine", examine_or_stop)
            code, out, err = typed("evaluate", run)
        assert (code, out) == (130, "")
        assert err.splitlines()[-1] == "interrupted"
        return err

    interrupt_at("C_000")
    assert not folder.exists(), "no case is finished"
    for name, finished in (("C_001", 1), ("C_003", 3)):  # a second interrupted one replaces the first
        err = interrupt_at(name)
        unfinished = counted(4 - finished, "unfinished case")
        assert f"kept in {folder}: without {unfinished}; repeat the command to evaluate all cases" in err
        assert len({row["case"] for row in read_rows(folder / "cases.csv")}) == finished
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["summary"]["tumour"]["all"]["n_cases"] == finished
        assert set(summary["failed"].values()) == {evaluation.INTERRUPTED}
        assert len(summary["failed"]) == 4 - finished
    missing = json.loads(call("report", run, "--json").stdout)["missing"]["evaluation"]
    assert "was interrupted before 1 case" in missing
    assert missing.endswith(f"dualtask evaluate {run}")
    assert "C_003" in (run / "report.html").read_text(encoding="utf-8")
    assert typed("evaluate", run)[0] == 0
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "the whole evaluation that it already held" in interrupt_at("C_003")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_evaluate_prints_the_warnings_about_a_case(typed, cascade, phantom_folder, tmp_path):
    source = shutil.copytree(phantom_folder / "C", tmp_path / "C")
    image = find_cases(source)[1].image
    ct = nib.load(image)
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj) + np.float32(1024), ct.affine), image)
    code, out, err = typed("evaluate", cascade, "--source", source, "-o", tmp_path / "out", "--json")
    assert code == 0
    ((name, (warning,)),) = json.loads(out)["warnings"].items()
    assert name == find_cases(source)[1].id
    assert "do not look like HU" in warning
    assert [line for line in err.splitlines() if "note" not in line] == [f"warning: {warning}"]


@pytest.mark.parametrize("size", [(0, 8, 8), (-5, 8, 8), (3, 3, 3)])
def test_phantom_of_no_size_is_refused(tmp_path, size):
    words = ["data", "make", "phantom", "--cases", 1, "--size", *size, "-o", tmp_path / "p"]
    assert "is too small" in str(call(*words, ok=False).exception)


def test_the_table_of_an_evaluation_counts_cases_for_each_metric(monkeypatch, tmp_path):
    """An HD95 over three of five cases must not look like one over five."""
    truth, empty = np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    about = {"case": "C", "centre": "C", "target": "tumour"}
    rows = [about | case_metrics(found, truth, (1, 1, 1)) for found in (truth, truth, truth, empty, empty)]
    found = evaluation.Evaluation(rows, evaluation.summary_of(rows), {})
    monkeypatch.setattr("dualtask_lite.cli.evaluate.models_of", lambda *_: [])
    monkeypatch.setattr("dualtask_lite.cases.sources.find_cases", lambda _: [])
    monkeypatch.setattr(evaluation, "unseen_cases", lambda *_, **__: [])
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: found)
    table = call("evaluate", tmp_path, "--source", "x").stdout
    assert "0.600 (5)" in table
    assert "0.000 (3)" in table


def test_the_table_of_arms_has_both_intervals_and_the_conclusion(monkeypatch, tmp_path):
    about = {"target": "tumour", "protocol": "leave-one-centre-out", "centre": "C", "seed": 0}
    about |= dict.fromkeys(("hd95_mm", "assd_mm", "detected", "volume_error_ml"), "")
    rows = [
        {**about, "arm": arm, "case": str(case), "dice": dice, "nsd_2mm": dice}
        for arm, values in {"segmentation": (0.4, 0.5, 0.6), "full": (0.5, 0.6, 0.8)}.items()
        for case, dice in enumerate(values)
    ]
    monkeypatch.setattr("dualtask_lite.engine.training.selection.find_cases", lambda _: [])
    monkeypatch.setattr(ablation, "ablate", lambda *_, **__: summarise_cells(rows, "tumour", "segmentation"))
    printed = call("ablate", "-o", tmp_path).stdout
    assert "undefined" in printed
    assert "+0.100 to +0.200" in printed
    assert "not shown" in printed
    assert printed.count("note: few cases (3 at centre C)") == 1
    assert "no hierarchical interval: fewer than 3 training runs" in " ".join(printed.split())


def test_ablate_uses_the_chosen_cases_with_a_label(typed, monkeypatch, phantom_folder, tmp_path):
    used = []
    monkeypatch.setattr(ablation, "ablate", lambda _, __, cases, *___, **____: used.extend(cases) or {"x": 0})
    words = ["ablate", "--source", phantom_folder, "-o", tmp_path / "table", "--json"]
    typed(*words, "--set", "data.cases=[B_001, A_000]")
    assert [case.id for case in used] == ["B_001", "A_000"]
    assert "no case 'Z'" in typed(*words, "--set", "data.cases=[Z]")[2]
    assert "use --seeds" in typed(*words, "--set", "seed=7")[2]
    assert "use --arm" in typed(*words, "--set", "views.count=1")[2]  # although the profile's terms need two


def test_a_table_has_a_column_for_each_key_of_any_row(capsys):
    """The arms of an ablation may have other protocols."""
    print_table([{"arm": "one", "in-domain": "0.11"}, {"arm": "two", "unseen": "0.22"}, {"unseen": "0.33", "arm": "x"}])
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if "arm" in line)
    assert head.index("in-domain") < head.index("unseen")
    columns = {value: line.index(value) for line in lines for value in ("0.11", "0.22", "0.33") if value in line}
    assert columns["0.11"] == head.index("in-domain")
    assert columns["0.22"] == columns["0.33"] == head.index("unseen")


@pytest.mark.parametrize(
    "command",
    ["train -o {out}", "predict {run} {data} -o {out}", "evaluate {run} -o {out}", "report {run} -o {out}/x"],
)
def test_an_output_that_cannot_be_written_is_found_before_the_work(typed, cascade, tmp_path, monkeypatch, command):
    run, data = shutil.copytree(cascade, tmp_path / "run"), cts(tmp_path / "in", "ct.nii.gz")
    call("evaluate", run)
    (tmp_path / "taken").touch()
    for method in ("load", "digest"):
        monkeypatch.setattr(Case, method, lambda _: pytest.fail("a case was read"))
    code, _, err = typed(*command.format(run=run, data=data, out=tmp_path / "taken" / "out").split())
    assert code == 1
    assert "cannot be written (Not a directory); choose another folder, or check" in err


def test_lessons_print_a_command_that_a_shell_understands(tmp_path):
    assert f"jupyter lab '{tmp_path / 'my course'}'\n" in call("lessons", tmp_path / "my course").output


@pytest.mark.parametrize("degrees", [0, 15])
def test_predict_writes_on_the_grid_of_the_input(cascade, tmp_path, degrees):
    """Oblique, flipped, anisotropic, qform only: the outputs lie exactly where the input does."""
    case = make_case("C", 1, size=(40, 36, 12))
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-8.0, 8.0, 12.5])
    affine[:3, 3] = (100, -80, 40)
    image = nib.Nifti1Image(case.image[::-1], None)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "ct.nii.gz")
    call("predict", cascade, tmp_path / "ct.nii.gz", "-o", tmp_path / "out")
    given = nib.load(tmp_path / "ct.nii.gz")
    for kind, dtype in (("seg", np.uint8), ("distance", np.float32)):
        written = nib.load(tmp_path / "out" / f"ct_{kind}.nii.gz")
        assert written.shape == given.shape
        assert np.array_equal(written.affine, given.affine)
        assert written.get_data_dtype() == dtype
    report = json.loads((tmp_path / "out" / "ct.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["pancreas-coarse", "tumour-coarse"]
    assert "not for diagnosis" in report["not_for_diagnosis"]
    assert (tmp_path / "out" / "ct.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "command", ["predict {run} {ct} -o {out}", "evaluate {run} --source {ct}", "export {run} -o {out}"]
)
def test_repeated_stage_is_one_error_before_any_case(typed, cascade, phantom_folder, tmp_path, command):
    run = shutil.copytree(cascade, tmp_path / "run")
    shutil.copytree(run / "tumour-coarse", run / "again")
    given = {"run": run, "ct": phantom_folder / "C", "out": tmp_path / "out"}
    code, _, err = typed(*(word.format(**given) for word in command.split()))
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "two models are of the same stage" in err
    assert not (tmp_path / "out").exists()


def test_predict_skips_and_reports_a_bad_input(typed, cascade, tmp_path):
    case = make_case("C", 1, size=(24, 24, 12))
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(case.image, case.affine), tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "bad.nii.gz").write_text("<html>")
    code, out, err = typed("predict", cascade, tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "failed bad" in out
    assert "1 of 2 inputs" in err
    assert (tmp_path / "out" / "good_seg.nii.gz").exists()
    assert not list((tmp_path / "out").glob("bad*"))


def cts(folder, *names, size=(24, 24, 12), number=1):
    """Write one CT of the phantom under each name."""
    case = make_case("C", number, size=size)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(case.image, case.affine), folder / name)
    return folder


def test_predict_keeps_inputs_of_one_name_apart(typed, cascade, tmp_path):
    cts(tmp_path, "a/ct.nii.gz")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ct.nii.gz").write_text("<html>")
    (tmp_path / "readme.txt").touch()
    inputs = [tmp_path / name for name in ("a/ct.nii.gz", "b/ct.nii.gz", "a", "readme.txt")]
    code, out, err = typed("predict", cascade, *inputs, "-o", tmp_path / "out", "--json")
    assert code == 1
    assert "1 of 2 inputs" in err
    output = json.loads(out)
    assert [one["case"] for one in output["predicted"]] == ["a_ct"]
    assert output["failed"].keys() == {"b_ct"}
    assert [one["path"] for one in output["skipped"]] == [str(tmp_path / "readme.txt")]


def test_predict_again_below_its_input_predicts_the_same_cases(typed, cascade, tmp_path):
    """Its results lie there now; what is no result is not written over."""
    cts(tmp_path / "in", "ct.nii.gz")
    words = ["predict", cascade, tmp_path / "in", "-o", tmp_path / "in"]
    assert [typed(*words)[0], typed(*words)[0]] == [0, 0]
    ct, *results = sorted(path.name for path in (tmp_path / "in").iterdir() if path.suffix != ".png")
    assert (ct, results) == ("ct.json", ["ct.nii.gz", "ct_distance.nii.gz", "ct_seg.nii.gz"])
    (tmp_path / "in" / "ct.json").unlink()
    mask = (tmp_path / "in" / "ct_seg.nii.gz").read_bytes()
    code, _, err = typed("predict", cascade, tmp_path / "in" / "ct.nii.gz", "-o", tmp_path / "in")
    assert code == 1
    assert "ct_seg.nii.gz: is not a result of dualtask predict, and that of case ct would replace it" in err
    assert (tmp_path / "in" / "ct_seg.nii.gz").read_bytes() == mask


def test_the_prediction_of_another_image_of_one_name_is_kept(typed, cascade, tmp_path):
    """As the CTs of a study often are: PATIENT/ct.nii.gz; the other cases of the command are predicted."""
    cts(tmp_path / "p1", "ct.nii.gz")
    cts(tmp_path / "p2", "ct.nii.gz", number=2)
    cts(tmp_path / "p2", "other.nii.gz", number=3)
    words = ["-o", tmp_path / "out", "--json"]
    assert typed("predict", cascade, tmp_path / "p1" / "ct.nii.gz", *words)[0] == 0
    report = json.loads((tmp_path / "out" / "ct.json").read_text())
    assert report["digest"] == Case("x", "x", tmp_path / "p1" / "ct.nii.gz").digest()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    code, out, err = typed("predict", cascade, tmp_path / "p2", *words)
    assert code == 1
    assert "1 of 2 inputs" in err
    (reason,) = json.loads(out)["failed"].values()
    assert "is the result of another image; choose another folder, or give" in reason
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "out" / "other_seg.nii.gz").exists()
    (tmp_path / "p1").rename(tmp_path / "moved")
    assert typed("predict", cascade, tmp_path / "moved" / "ct.nii.gz", *words)[0] == 0


def correct(mask):
    """Change one voxel of a mask, as in a viewer."""
    image = nib.load(mask)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 2 - voxels[0, 0, 0]
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), mask)
    return mask.read_bytes()


def test_a_prediction_that_was_corrected_by_hand_is_kept(typed, cascade, tmp_path):
    """And no other case of the command is predicted, as with any file that would be lost."""
    cts(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    words = ["predict", cascade, tmp_path / "in", "-o", tmp_path / "out", "--json"]
    for report in json.loads(typed(*words)[1])["predicted"]:
        assert report == json.loads((tmp_path / "out" / f"{report['case']}.json").read_text())
        assert report["sha256"].keys() == {"mask", "distance"}
    mask = tmp_path / "out" / "b_seg.nii.gz"
    correct(mask)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    code, out, err = typed(*words)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{mask}: was changed after its prediction, and a new one of case b would replace it; move it, or" in err
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()} == before


def test_a_mask_that_is_corrected_while_its_case_is_predicted_again_is_kept(typed, cascade, tmp_path, monkeypatch):
    def predict_scan(*args):
        corrected.append(correct(mask))
        return real(*args)

    cts(tmp_path, "ct.nii.gz")
    words = ["predict", cascade, tmp_path / "ct.nii.gz", "-o", tmp_path / "out", "--json"]
    assert typed(*words)[0] == 0
    mask, corrected, real = tmp_path / "out" / "ct_seg.nii.gz", [], prediction.predict_scan
    monkeypatch.setattr(prediction, "predict_scan", predict_scan)
    code, out, _ = typed(*words)
    assert code == 1
    assert "ct_seg.nii.gz: was changed after its prediction" in json.loads(out)["failed"]["ct"]
    assert [mask.read_bytes()] == corrected


def test_a_mask_of_an_earlier_version_is_replaced(typed, cascade, tmp_path):
    """Its report does not say what was written."""
    cts(tmp_path, "ct.nii.gz")
    words = ["predict", cascade, tmp_path / "ct.nii.gz", "-o", tmp_path / "out"]
    assert typed(*words)[0] == 0
    report, mask = tmp_path / "out" / "ct.json", tmp_path / "out" / "ct_seg.nii.gz"
    content = json.loads(report.read_text())
    report.write_text(json.dumps({key: content[key] for key in content if "sha256" not in key}, indent=2))
    predicted = mask.read_bytes()
    correct(mask)
    assert typed(*words)[0] == 0
    assert mask.read_bytes() == predicted


def test_a_new_prediction_that_was_cut_after_its_report_is_repeated(typed, cascade, tmp_path, monkeypatch):
    """The mask and the distance of the earlier one are still there; nobody corrected them."""
    cts(tmp_path, "ct.nii.gz")
    words = [tmp_path / "ct.nii.gz", "-o", tmp_path / "out"]
    report, mask = tmp_path / "out" / "ct.json", tmp_path / "out" / "ct_seg.nii.gz"
    assert typed("predict", cascade / "pancreas-coarse", *words)[0] == 0
    earlier = json.loads(report.read_text())["sha256"]

    def replace(source, target):
        if target == mask:
            raise OSError("power cut")
        real(source, target)

    real = os.replace
    with monkeypatch.context() as cut:
        cut.setattr(os, "replace", replace)
        assert typed("predict", cascade, *words)[0] == 1
    assert json.loads(report.read_text())["replaced_sha256"] == earlier
    assert json.loads(report.read_text())["sha256"] != earlier
    assert typed("predict", cascade, *words)[0] == 0


def test_error_in_one_case_does_not_stop_the_others(typed, cascade, tmp_path, monkeypatch):
    def load(case):
        return real(case) if case.id == "good" else {}["nobody foresaw this"]

    real = Case.load
    monkeypatch.setattr(Case, "load", load)
    cts(tmp_path / "in", "bad.nii.gz", "good.nii.gz")
    code, out, err = typed("predict", cascade, tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert "failed bad: KeyError: 'nobody foresaw this'" in out
    assert "Traceback" not in err
    assert (tmp_path / "out" / "good_seg.nii.gz").exists()


def test_predict_goes_through_any_name_and_any_terminal(cascade, tmp_path, monkeypatch):
    """Bytes that are no text, letters without a font, a formula that is none; standard output shows only ASCII."""
    if os.name == "nt":
        pytest.skip("Windows forbids such names")
    names = ["x\udcff.nii.gz", "胰腺.nii.gz", "$\\frac{$.nii.gz"]
    cts(tmp_path / "in", *names)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    monkeypatch.setattr(
        sys, "argv", ["dualtask", "predict", *map(str, [cascade, tmp_path / "in", "-o", tmp_path / "o"])]
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert {path.name for path in (tmp_path / "o").glob("*.json")} == {"x%FF.json", "胰腺.json", "$\\frac{$.json"}
    assert len(list((tmp_path / "o").glob("*.png"))) == 3
    assert b"x%FF" in written.getvalue()
    assert b"\\u80f0\\u817a" in written.getvalue()


def test_a_closed_standard_output_is_no_error():
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.close(1); os.execv(*__import__('ast').literal_eval(os.environ['RUN']))"],
        env={**os.environ, "RUN": repr((sys.executable, [sys.executable, "-m", "dualtask_lite", "data", "list"]))},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_writing_command_accepts_o_and_out():
    from typer.main import get_command

    def options(command):
        for below in getattr(command, "commands", {}).values():
            yield from options(below)
        yield from (set(one.opts) for one in command.params if "--out" in one.opts)

    every = list(options(get_command(app)))
    assert len(every) >= 8
    assert all(one == {"--out", "-o"} for one in every)


@pytest.mark.parametrize(
    "command",
    ["predict run ct.nii.gz", "evaluate run", "export run", "train", "ablate", "data make", "data get msd"],
)
def test_a_folder_to_write_is_not_named_like_a_file(typed, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, _, err = typed(*command.split(), "-o", "seg.nii.gz")
    assert (code, err.count("\n")) == (1, 1)
    assert "seg.nii.gz: is the name of a file; give the name of a folder" in err
    assert not list(tmp_path.iterdir())


def test_a_tilde_after_an_equals_sign_is_the_home(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    code, _, _ = typed("data", "make", "--out=~/p", "--cases", 1, "--size", 32, 32, 16)
    assert code == 0
    assert (tmp_path / "home" / "p").is_dir()
    assert not (tmp_path / "~").exists()


def test_predict_warns_of_a_geometry_that_cannot_be_trusted(typed, cascade, tmp_path):
    cts(tmp_path, "ct.nii.gz")
    image = nib.load(tmp_path / "ct.nii.gz")
    sheared = image.affine.copy()
    sheared[1, 2] += 3
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), sheared), tmp_path / "tilted.nii.gz")
    typed("predict", cascade, tmp_path / "tilted.nii.gz", "-o", tmp_path / "out")
    warnings = json.loads((tmp_path / "out" / "tilted.json").read_text())["warnings"]
    assert any("not at right angles (gantry tilt?)" in warning for warning in warnings)


def test_predict_warns_of_masks_among_the_inputs(typed, cascade, tmp_path):
    """Its masks may lie beside a CT; they are predicted, with a warning."""
    case = make_case("C", 1, size=(24, 24, 12))
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(case.image, case.affine), tmp_path / "in" / "ct.nii.gz")
    nib.save(nib.Nifti1Image(np.uint8(case.image > 0), case.affine), tmp_path / "in" / "mask.nii.gz")
    code, out, _ = typed("predict", cascade, tmp_path / "in", "-o", tmp_path / "out")
    assert code == 0
    assert out.count("do not look like HU") == 1
    assert "warning: mask: values from 0 to 1 do not look like HU" in " ".join(out.split())
    warned = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["warnings"] for name in ("ct", "mask")}
    assert not any("HU" in line for line in warned["ct"])
    assert any("leave it out if it is a mask" in line for line in warned["mask"])


def test_report_lists_missing_parts_and_later_shows_them(cascade, tmp_path, phantom_folder):
    run = tmp_path / "run"
    shutil.copytree(cascade, run, ignore=shutil.ignore_patterns("evaluation"))
    output = json.loads(call("report", run, "--json").stdout)
    assert output["missing"]["evaluation"].endswith(f"dualtask evaluate {run}")
    bare = (run / "report.html").read_text()
    assert "dualtask evaluate" in bare
    assert "tumour-coarse" in bare
    call("evaluate", run)
    output = json.loads(call("report", run, "-o", tmp_path / "new" / "page.html", "--json").stdout)
    assert output["missing"] == {}
    page = (tmp_path / "new" / "page.html").read_text()
    assert 0 < output["bytes"] == len(page.encode()) <= 12_000_000
    assert page.count('<figure class="dualtask-slices"') == 3
    assert "Best: case C_" in page
    assert "Warnings against the true error, 4 cases" in page


def test_a_report_comes_out_when_the_data_are_gone(cascade, tmp_path, phantom_folder):
    run = tmp_path / "run"
    shutil.copytree(cascade, run)
    call("evaluate", run)
    output = json.loads(call("report", run, "--source", phantom_folder / "A", "--json").stdout)
    assert set(output["missing"]) == {"examples", "doubts"}
    assert "--source" in output["missing"]["examples"]
    assert "Case by case" in (run / "report.html").read_text()


def heed_ctrl_c():
    """A shell lets the children of a job in the background ignore Ctrl-C; these tests may run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_names_resume_and_leaves_no_partial_file(tmp_path, phantom_folder):
    words = [
        "train",
        "--source",
        str(phantom_folder),
        "--out",
        str(tmp_path / "run"),
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "dualtask_lite", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    while running.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "interrupted; continue with dualtask train --resume RUN"
    assert {file.name for file in (tmp_path / "run").iterdir()} <= {"config.yaml", "metrics.csv", "last.ckpt"}
