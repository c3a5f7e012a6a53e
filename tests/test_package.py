"""What is published: versions and their bounds, the citation, and what a wheel built from the sdist holds and does."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from posattn.recipes.demo.settings import DemoConfig
from posattn.runs.folder import open_run

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_dependency_has_its_lower_bound_pinned() -> None:
    """All but the linters, which only the development of the package needs."""
    extras = {name: each for name, each in PROJECT["optional-dependencies"].items() if name != "dev"}
    required = [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]
    bounds = [requirement for requirement in required if not requirement.startswith("posattn[")]
    pins = [line for line in (ROOT / "lowest.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(pins) == sorted(requirement.replace(">=", "==") for requirement in bounds)
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+", pin) for pin in pins)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["references"][0]["url"] == PROJECT["urls"]["Paper"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "posattn", source / "posattn", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def package_files() -> set[str]:
    """The files of the package, without what Python caches."""
    files = (path.relative_to(ROOT) for path in (ROOT / "posattn").rglob("*") if path.is_file())
    return {str(path) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_and_the_sdist_hold_the_whole_package(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert in_wheel == package_files()
    assert "posattn/py.typed" in in_wheel
    assert "posattn/runs/report/templates/report.html" in in_wheel
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() | {"pyproject.toml", "README.md", "LICENSE"} <= in_sdist


def test_the_wheel_works_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    python = str(env / "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = env.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # as they are here

    def posattn(*arguments: str) -> str:
        command = [str(env / "bin/posattn"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert posattn("--version") == f"posattn {PROJECT['version']}\n"
    assert "images-cifar10" in posattn("list")
    folder = open_run(tmp_path / "run", "toy", DemoConfig())
    folder.finish({"title": "Toy", "summary": "", "page": []})
    assert str(folder.path) in posattn("report", str(folder.path))
    where = [python, "-c", "import posattn; print(posattn.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env={}, capture_output=True, text=True, check=True).stdout
    assert Path(found).is_relative_to(env)
