"""A wheel is built, and pip, uv and pipx each install it; what they install converts.

    python -m tests.support.installers

pip and uv don't install the dependencies again: those environments find this one's behind their own packages. pipx
looks at the dependencies itself, so it installs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.conftest import checkpoint

ROOT = Path(__file__).parent.parent.parent
PACKAGES = sysconfig.get_paths()["purelib"]


def run(*command: object, **variables: str) -> None:
    """Runs one step; its failure ends everything, and shows what it printed."""
    result = subprocess.run(  # noqa: S603 - our own commands
        [*map(str, command)], check=False, capture_output=True, text=True, env={**os.environ, **variables}
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}")


def build(folder: Path) -> Path:
    """The wheel."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


def with_pip(wheel: Path, folder: Path) -> Path:
    """Installs the wheel; gives the command."""
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--no-deps", wheel)
    share(folder)
    return folder / "bin" / "w2vc"


def with_uv(wheel: Path, folder: Path) -> Path:
    """Installs the wheel; gives the command."""
    uv = (sys.executable, "-m", "uv")
    run(*uv, "venv", "--offline", "--python", sys.executable, folder)
    run(*uv, "pip", "install", "--offline", "--no-deps", "--python", folder / "bin" / "python", wheel)
    share(folder)
    return folder / "bin" / "w2vc"


def with_pipx(wheel: Path, folder: Path) -> Path:
    """Installs the wheel and its dependencies; gives the command."""
    homes = {"PIPX_HOME": str(folder), "PIPX_BIN_DIR": str(folder / "bin"), "PIPX_MAN_DIR": str(folder / "man")}
    constraints = ROOT / "tests" / "constraints-newest.txt"
    run(sys.executable, "-m", "pipx", "install", f"--pip-args=--constraint={constraints}", wheel, **homes)
    return folder / "bin" / "w2vc"


def share(environment: Path) -> None:
    """Lets an environment find this one's packages behind its own."""
    own = Path(sysconfig.get_paths(vars={"base": str(environment)})["purelib"])
    (own / "shared.pth").write_text(f"{PACKAGES}\n", encoding="utf-8")


def main() -> None:
    """Installs with each and converts a fixture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        for install in (with_pip, with_uv, with_pipx):
            command = install(wheel, folder / install.__name__)
            run(command, "convert", checkpoint("relative_ctc"), folder / f"{install.__name__}-out")
            print(f"{install.__name__}: installed {wheel.name} and converted a fixture", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
