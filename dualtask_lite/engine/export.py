"""Export a stage or cascade as a MONAI bundle; ``python -m monai.bundle run`` gives the mask of ``dualtask predict``.

The configuration of the bundle calls the prediction of this package. A traced network would not need the package, but
the region of a stage, the repetitions of a fine stage and the choice of components depend on earlier results: a trace
cannot represent that, and a second implementation would diverge from the first. The weights are safetensors, which
execute no code when they are loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from dualtask_lite.cases.case import CT_WINDOW, Case
from dualtask_lite.engine.config import STAGES
from dualtask_lite.engine.predict import Prediction, in_cascade_order
from dualtask_lite.engine.records import write_json
from dualtask_lite.engine.run import MODEL, Model, save_model
from dualtask_lite.engine.saving import predict_into, refuse_to_replace
from dualtask_lite.errors import DualTaskError, reason_of
from dualtask_lite.files import report_write_errors

NOT_FOR_DIAGNOSIS = "For teaching and research only, not for diagnosis."
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"

# Syntax of MONAI: "@" refers to another entry, "$" is an expression, "_target_" is called with its neighbours.
INFERENCE: dict[str, Any] = {
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/input'",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "dataset": {"_target_": "dualtask_lite.cases.sources.find_cases", "source": "@dataset_dir"},
    "models": {
        "_target_": "dualtask_lite.engine.run.load_models",
        "path": "$@bundle_root + '/models'",
        "device": "@device",
    },
    "network_def": "$@models[-1].net",
    "inferer": {"_target_": "dualtask_lite.engine.predict.predict_scan", "_mode_": "callable", "models": "@models"},
    "evaluator": {
        "_target_": "dualtask_lite.engine.export.Evaluator",
        "inferer": "@inferer",
        "dataset": "@dataset",
        "output_dir": "@output_dir",
    },
    "run": ["$@evaluator.run()"],
}


class Evaluator:
    """The program of the bundle: predicts each case into a folder, as ``dualtask predict`` does, without a picture.

    Args:
        inferer: :func:`~dualtask_lite.engine.predict.predict_scan` with its models; called with ``scan=``.
        dataset: the cases.
        output_dir: folder for ``NAME_seg.nii.gz``, ``NAME_distance.nii.gz`` (mm) and ``NAME.json``.
    """

    def __init__(self, inferer: Callable[..., Prediction], dataset: Sequence[Case], output_dir: str) -> None:
        self.inferer, self.dataset, self.output_dir = inferer, dataset, Path(output_dir)

    def run(self) -> None:
        """Predict all cases.

        Raises:
            DualTaskError: before all work, when a file would be replaced that is not the unchanged result of an earlier
                prediction; after it, when some cases could not be predicted.
        """
        refuse_to_replace(self.dataset, self.output_dir)
        failed = []
        for case in self.dataset:
            try:
                predict_into(self.output_dir, case, lambda scan: self.inferer(scan=scan))
            except Exception as error:  # one bad case does not stop the others
                failed.append(f"{case.id}: {reason_of(error)}")
        if failed:
            raise DualTaskError(
                f"{len(failed)} of {len(self.dataset)} inputs could not be predicted: {'; '.join(failed)}",
                "repair or remove them, and run it again",
            )


def export_bundle(models: Sequence[Model], folder: Path) -> Path:
    """Write a MONAI bundle: ``configs``, ``models`` and ``docs``.

    The weights keep the hashes of the training CTs, so that an evaluation can still refuse these, but neither the
    names of the cases nor their folder.

    Args:
        models: one stage, or the stages of a cascade.
        folder: of the bundle; it must not exist.

    Returns:
        The folder.

    Raises:
        DualTaskError: when no model is given, two are of the same stage, or the folder exists or cannot be written.
    """
    models = in_cascade_order(models)
    if folder.exists():
        raise DualTaskError(f"{folder}: exists already", "choose a new folder with --out")
    unfinished = folder.with_name(f".{folder.name}.part")  # renamed when it is complete
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for model in models:
            _save_unnamed(model, unfinished / "models" / (model.settings.stage if len(models) > 1 else "") / MODEL)
        write_json(unfinished / "configs" / "metadata.json", describe(models))
        write_json(unfinished / "configs" / "inference.json", INFERENCE)
        with report_write_errors(folder):
            (unfinished / "docs").mkdir()
            (unfinished / "docs" / "README.md").write_text(_readme(models), encoding="utf-8")
            (unfinished / "docs" / "license.txt").write_text(_LICENCE, encoding="utf-8")
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _save_unnamed(model: Model, path: Path) -> None:
    """Write the weights without data that may identify a patient: the ids of the cases and their folder."""
    data = model.settings.data
    settings = model.settings.changed({"data.source": Path(data.source).name, "data.cases": None})
    save_model(path, model.net, settings, [replace(case, id=case.digest) for case in model.training_cases])


def describe(models: Sequence[Model]) -> dict[str, Any]:
    """Content of ``metadata.json`` by MONAI's specification; inputs and outputs are those of the last network."""
    version = {name: metadata.version(name) for name in ("dualtask-lite", "monai", "torch", "numpy")}
    tensor = {
        "type": "image",
        "num_channels": 1,
        "spatial_shape": ["8*n", "8*m", "8*k"],
        "dtype": "float32",
        "is_patch_data": True,
    }
    outputs: dict[str, Any] = {
        "seg": {
            **tensor,
            "format": "magnitude",
            "value_range": [],
            "channel_def": {"0": f"logit of the stage's target ({_targets(models)})"},
        }
    }
    if models[-1].settings.has_distance:
        outputs["distance"] = {
            **tensor,
            "format": "magnitude",
            "value_range": [-1, 1],
            "channel_def": {"0": "signed distance to the target divided by the band, negative inside"},
        }
    low, high = CT_WINDOW
    return {
        "schema": SCHEMA,
        "version": version["dualtask-lite"],
        "changelog": {version["dualtask-lite"]: f"exported by Dual-Task Lite {version['dualtask-lite']}"},
        "monai_version": version["monai"],
        "pytorch_version": version["torch"].split("+")[0],
        "numpy_version": version["numpy"],
        "required_packages_version": {"dualtask-lite": version["dualtask-lite"], "fire": "0.5"},
        "name": "Dual-Task Lite, " + ", ".join(model.settings.stage for model in models),
        "task": f"Segmentation of {_targets(models)} in CT, with the signed distance to it",
        "description": "A dual-task U-Net (segmentation and signed distance) for the pancreas and its tumours in "
        f"CT. {NOT_FOR_DIAGNOSIS}",
        "authors": "Whoever trained this model, with Dual-Task Lite",
        "copyright": "Whoever trained this model; the code is Apache-2.0",
        "intended_use": NOT_FOR_DIAGNOSIS,
        "references": [
            "Li, Zhang, Shi, Li, Li, Qian. A Dual-Task Synergy-Driven Generalization Framework for Pancreatic Cancer "
            "Segmentation in CT Scans. arXiv:2505.01644, 2025."
        ],
        "stages": {model.settings.stage: model.settings.network.model_dump() for model in models},
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "format": "hounsfield",
                    "modality": "CT",
                    "value_range": [0, 1],
                    "channel_def": {"0": f"CT, {low:g} to {high:g} HU scaled to 0 to 1, axes RAS+"},
                }
            },
            "outputs": outputs,
        },
    }


def _targets(models: Sequence[Model]) -> str:
    targets = {STAGES[model.settings.stage].target for model in models}
    return " and ".join(target for target in ("pancreas", "tumour") if target in targets)


def _readme(models: Sequence[Model]) -> str:
    stages = "\n".join(
        f"- {model.settings.stage}: width {model.settings.network.width}, working grid "
        f"{' x '.join(f'{s:g}' for s in model.settings.sample.spacing)} mm, "
        f"trained on {sum(case.role == 'train' for case in model.training_cases)} cases"
        for model in models
    )
    return f"""# Dual-Task Lite: {_targets(models)} in CT

**{NOT_FOR_DIAGNOSIS}**

{stages}

    pip install dualtask-lite=={metadata.version("dualtask-lite")} fire
    cd THIS_FOLDER
    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir CT.nii.gz --output_dir out

`dataset_dir` is a NIfTI file or a folder of them; `--device cpu` chooses a device. `out` then holds, on the grid of
each input, `NAME_seg.nii.gz` (0 background, 1 pancreas, 2 tumour) and `NAME_distance.nii.gz` (mm to the surface of the
last stage's target, negative inside): the same voxels as `dualtask predict models CT.nii.gz -o out` on the same device.
`NAME.json` has volumes and warnings. A mask that was changed by hand is not replaced.

The configuration calls the package `dualtask-lite`, which must be installed: the region of a stage depends on the
result of the stage before it, and that is code, not a network. The weights are safetensors with their settings as
metadata. They hold the hashes of the training CTs, so that `dualtask evaluate models` refuses to score these, and no
names of cases.
"""


_LICENCE = """The code of Dual-Task Lite is licensed under Apache-2.0 (http://www.apache.org/licenses/LICENSE-2.0).
Whoever trained these weights states their licence; it depends on the training data.
"""
