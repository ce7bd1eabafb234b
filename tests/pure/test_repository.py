"""The rules of the repository, held by the test run: what may stand in a file, and what ships."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.requirements import BY_LAYER

ROOT = Path(__file__).parents[2]
LONGEST = 500

# Spelled in pieces, so that this file does not name them itself.
REGISTRIES = re.compile(
    "|".join(
        [
            r"py" r"pi\.(org|python)",
            r"python" r"hosted\.org",
            r"(deb|security|snapshot|ftp\.?\w*)\." r"debian\.org",
            r"(archive|security|ports)\." r"ubuntu\.com",
            r"npm" r"js\.(org|com)",
            r"crates" r"\.io",
            r"proxy\." r"golang\.org",
        ]
    )
)
MACHINE_PATHS = re.compile(
    r"(?<![\w.}$-])/(?:" + "|".join(["work/", "root/", "home" r"/\w", "opt/", "tmp" r"/\w\w"]) + ")"
)


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows and that are there, by git's own patterns."""
    # The clone may belong to somebody else, as it does in a container.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    return [path for path in paths if path.is_file()]


def offences(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """`file:line: text` wherever the pattern is found in a text file."""
    found = []
    for path in paths:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    return found


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


@pytest.mark.parametrize(
    "text",
    ["https://" + "py" + "pi.org/simple", "deb http://deb." + "debian.org/debian bookworm main"],
)
def test_pattern_finds_registries(text: str) -> None:
    assert REGISTRIES.search(text)


@pytest.mark.parametrize("text", ["'/" + "work/main'", " /" + "root/x", "/" + "tmp/some.log"])
def test_pattern_finds_machine_paths(text: str) -> None:
    assert MACHINE_PATHS.search(text)


@pytest.mark.parametrize("text", ["docs/" + "work/x", "$HOME/" + "root/x", "under /tmp", "/tmp/x"])
def test_pattern_leaves_other_paths_alone(text: str) -> None:
    assert not MACHINE_PATHS.search(text)


def test_no_file_names_a_package_registry() -> None:
    assert offences(REGISTRIES, tracked()) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert offences(MACHINE_PATHS, tracked()) == []


def test_lock_pins_by_hash_and_names_no_address() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pin = re.compile(
        r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    assert [line for line in lines if not line.startswith("#") and not pin.fullmatch(line)] == []


def test_lock_has_every_dependency() -> None:
    """A dependency added without `./dev lock` would be missing from a fresh machine."""

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    data = project()
    wanted = data["project"]["dependencies"] + data["dependency-groups"]["dev"]  # type: ignore[index]
    names = {plain(re.split(r"[ <>=!~;\[]", item)[0]) for item in wanted}
    locked = {plain(match) for match in re.findall(r"^(\S+)==", lock_text(), re.MULTILINE)}
    assert names - locked == set()


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text()


def test_dev_installs_what_tests_need() -> None:
    essential = {"apt", "bash", "dpkg", "util-linux"}
    listed = re.search(
        r"^PACKAGES=\((.*?)^\)", (ROOT / "dev").read_text(), re.DOTALL | re.MULTILINE
    )
    assert listed is not None
    needed = {part.package for parts in BY_LAYER.values() for part in parts}
    assert needed - essential - set(listed[1].split()) == set()


def test_every_module_says_what_it_is_for() -> None:
    def silent(path: Path) -> bool:
        return ast.get_docstring(ast.parse(path.read_text())) is None

    assert [str(path.relative_to(ROOT)) for path in tracked("*.py") if silent(path)] == []


def test_files_can_be_read_in_one_sitting() -> None:
    def length(path: Path) -> int:
        return len(path.read_text().splitlines())

    sizes = {str(path.relative_to(ROOT)): length(path) for path in tracked("*.py")}
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_links_in_the_documentation_lead_somewhere() -> None:
    broken = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_imports_go_down_only() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    # Started by this Python: the script's own first line breaks where the path has a space.
    done = subprocess.run(
        [sys.executable, str(lint_imports), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a user gets it, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
            *("--no-index", "--quiet", "--wheel-dir", str(folder), str(ROOT)),
        ],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    """Package data too: the test guest's C sources, the report's styles, py.typed."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in tracked("vmferry")}
    assert wanted - inside == set()
    assert "vmferry/py.typed" in inside
    sources = [n for n in inside if n.startswith("vmferry/testguest/") and n.endswith(".c")]
    assert sources != []


def test_wheel_has_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vmferry"}
