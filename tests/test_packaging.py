"""environment.yml, pyproject.toml and requirements.lock say the same."""

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gemma_encoder
from gemma_encoder.experiments.store import code_digest
from gemma_encoder.paths import ROOT
from gemma_encoder.reports.notebooks import notebook_names

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = PYPROJECT["project"], PYPROJECT["build-system"]
LOCK = [
    Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1] not in ("", "#")
]
LOCKED = {canonicalize_name(pin.name): pin for pin in LOCK}
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [Requirement(text) for group in (PROJECT["dependencies"], *EXTRAS.values()) for text in group]


def version(pin):
    """The one version that a pin allows."""
    (clause,) = pin.specifier
    assert clause.operator == "=="
    return clause.version


def test_the_lock_pins_each_package_once_from_an_index():
    assert len(LOCKED) == len(LOCK)
    for pin in LOCK:
        version(pin)
        assert pin.url is None
        assert pin.marker is None
    assert version(LOCKED["torch"]) == "2.13.0"


@pytest.mark.parametrize(
    "wanted", [want for want in WANTED if want.name != PROJECT["name"]], ids=lambda want: want.name
)
def test_every_dependency_is_locked_at_a_version_in_its_range(wanted):
    assert version(LOCKED[canonicalize_name(wanted.name)]) in wanted.specifier


def test_every_dependency_has_a_lower_bound():
    for want in WANTED:
        assert want.name == PROJECT["name"] or any(clause.operator == ">=" for clause in want.specifier), want


def test_the_lowest_versions_are_those_of_the_ranges():
    lines = (ROOT / "requirements.lowest").read_text().splitlines()
    lowest = {canonicalize_name(pin.name): version(pin) for pin in map(Requirement, lines[2:])}
    bounds = {
        canonicalize_name(want.name): next(clause.version for clause in want.specifier if clause.operator == ">=")
        for want in (*WANTED, *map(Requirement, BUILD["requires"]))
        if want.name != PROJECT["name"]
    }
    assert {name: Version(pin) for name, pin in lowest.items()} == {n: Version(low) for n, low in bounds.items()}


def imported(path):
    """The top-level packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[0] for name in names)


def test_everything_that_is_imported_is_declared():
    ours, owners = {"gemma_encoder", "benchmarks"}, importlib.metadata.packages_distributions()
    wanted = {canonicalize_name(want.name) for want in WANTED}
    files = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in ("gemma_encoder", "benchmarks", "tests"))
    for path in files:
        for name in set(imported(path)) - ours - sys.stdlib_module_names:
            packages = map(canonicalize_name, owners.get(name, [name]))
            assert wanted.intersection(packages), f"{path.name} imports {name}, which pyproject.toml does not name"


def test_what_a_wheel_installs_works_anywhere(tmp_path):
    build = "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "packages")
    (tmp_path / "elsewhere").mkdir()
    code = (
        f"import sys, json; sys.path.insert(0, {str(tmp_path / 'packages')!r}); "
        "import gemma_encoder; from gemma_encoder.experiments.spec import RunSpec; "
        "from gemma_encoder.experiments.run import run; from gemma_encoder.reports.notebooks import notebook_names; "
        "from gemma_encoder.experiments.store import code_digest; "
        "done = run(RunSpec(task='cola', train_examples=16, epochs=1)); "
        "print(json.dumps([gemma_encoder.__file__, str(done.folder), notebook_names(), code_digest()]))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", check=True, capture_output=True, text=True
    ).stdout
    file, folder, notebooks, digest = json.loads(shown.splitlines()[-1])
    assert file.startswith(str(tmp_path / "packages"))
    assert folder.startswith(str(tmp_path / "elsewhere/reports/runs"))
    assert notebooks == notebook_names()
    assert digest == code_digest()


def test_all_is_every_other_extra():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all"}


def test_what_the_locked_packages_need_is_locked_too():
    """Of the packages installed here as locked, no requirement is missing from the lock or outside of its version."""
    environment = {"extra": ""}
    installed = {canonicalize_name(found.name): found.version for found in importlib.metadata.distributions()}
    for name, pin in LOCKED.items():
        if name not in installed or not pin.specifier.contains(installed[name]):
            continue  # the environment of the lowest versions, which have other needs
        for text in importlib.metadata.requires(pin.name) or []:
            need = Requirement(text)
            if need.marker and not need.marker.evaluate(environment):
                continue
            needed = canonicalize_name(need.name)
            if needed not in LOCKED and name == "torch":
                continue  # torch's own accelerator packages come with its build
            assert needed in LOCKED, f"{pin.name} needs {need}"
            assert need.specifier.contains(version(LOCKED[needed]), prereleases=True), f"{pin.name} needs {need}"


def test_conda_gives_python_and_pip_and_the_lock_the_rest():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *conda, through_pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_the_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"]
    assert importlib.metadata.version(PROJECT["name"]) == gemma_encoder.__version__


def test_the_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="gemma-encoder")
    assert command.value == PROJECT["scripts"]["gemma-encoder"] == "gemma_encoder.cli:main"
    assert callable(command.load())


def test_every_public_name_is_there():
    for name in gemma_encoder.__all__:
        assert getattr(gemma_encoder, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gemma_encoder.nothing  # noqa: B018
