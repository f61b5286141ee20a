# Does nothing where the package is installed. Elsewhere (Colab, a bare Jupyter) it installs it from
# the clone that this notebook lies in, else from the address. torch and numpy stay as they are.
import importlib
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ADDRESS = ""  # of the repository; make notebooks ADDRESS=https://... sets it

if not find_spec("dualtask_lite"):
    folders = (Path.cwd(), *Path.cwd().parents)
    clones = [folder.as_uri() for folder in folders if (folder / "dualtask_lite").is_dir()]
    if not (clones or ADDRESS):
        sys.exit("dualtask_lite is missing: pip install FOLDER_OF_A_CLONE (or dualtask_lite-*.whl)")
    keep = Path(tempfile.mkdtemp()) / "keep.txt"
    kept = [f"{name}=={version(name)}\n" for name in ("torch", "numpy") if find_spec(name)]
    keep.write_text("".join(kept))
    package = f"dualtask-lite[widgets] @ {[*clones, f'git+{ADDRESS}'][0]}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "-c", str(keep), package]
    subprocess.run(pip, check=True)
    importlib.invalidate_caches()
