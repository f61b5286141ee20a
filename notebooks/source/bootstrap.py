# Nothing happens here when the package is installed. Elsewhere (Colab, a bare Jupyter) it is installed
# from the clone that this notebook lies in, else from the address; torch and numpy stay as they are.
import importlib.util
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ADDRESS = "git+https://github.com/OWNER/dualtask-lite"  # the one place where it is written

if importlib.util.find_spec("dualtask_lite") is None:
    clones = [folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "dualtask_lite").is_dir()]
    keep = Path(tempfile.mkdtemp()) / "keep.txt"
    present = {found.metadata["Name"]: found.version for found in distributions()}
    keep.write_text("".join(f"{name}=={present[name]}\n" for name in ("torch", "numpy") if name in present))
    wanted = str(clones[0]) if clones else f"dualtask-lite @ {ADDRESS}"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-c", keep, wanted, "ipyniivue>=2.4.4,<3"], check=True
    )
    importlib.invalidate_caches()
