"""Debian packages for the lab, by apt, without root and without touching the machine's own state.

The mirror is the one that the machine's own apt uses; the release is the lab's. Every package is
checked by the signatures of Debian's own keyring.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.tools import run

MIRROR_VARIABLE = "VMFERRY_LAB_MIRROR"
_KEYRINGS = tuple(
    Path("/usr/share/keyrings", f"debian-archive-keyring.{suffix}") for suffix in ("gpg", "pgp")
)
_FIELDS = ("SITE", "RELEASE", "ORIGIN", "LABEL")
_INSTALLED = re.compile(r"^Inst (\S+) ", re.MULTILINE)
# Hooks and pins are the machine's own; the rest of its configuration (a proxy, say) is used.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/cache/archives";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{folder}/sources.d";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Etc::Trusted "/dev/null";
Dir::Etc::TrustedParts "/dev/null";
"""


@dataclass(frozen=True, slots=True)
class Source:
    """One archive that the machine's apt knows, by what its Release file says of itself."""

    site: str
    release: str
    origin: str
    label: str


def machine_sources() -> list[Source]:
    """What the machine's apt has lists of. Raises LabError."""
    form = "\t".join(f"$({field})" for field in _FIELDS)
    output = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    rows = [line.split("\t") for line in output.splitlines()]
    return list(dict.fromkeys(Source(*row) for row in rows if len(row) == len(_FIELDS)))


def debian_sources(known: list[Source], suite: str, mirror: str | None, keyring: Path) -> str:
    """The sources of Debian's `suite` in apt's own form, from mirrors that the machine knows.

    Raises LabError where it knows none.
    """
    # A disc that the machine was installed from has no other release.
    online = [one for one in known if not one.site.startswith("cdrom:")]
    debian = [one for one in online if one.origin == "Debian" and one.label == "Debian"]
    if mirror:
        entries = [(mirror, [suite])]
    elif debian:
        has_updates = any(one.release.endswith("-updates") for one in debian)
        suites = [suite, f"{suite}-updates"] if has_updates else [suite]
        entries = [(debian[0].site, suites)]
        security = [one.site for one in online if one.label == "Debian-Security"]
        entries += [(site, [f"{suite}-security"]) for site in security[:1]]
    else:
        raise LabError(
            "apt has no lists of a Debian mirror on this machine, and the lab is built from Debian",
            hint=f"run `apt-get update` as root; elsewhere than on Debian set {MIRROR_VARIABLE} to "
            "the address of a Debian mirror",
        )
    return "\n".join(
        f"Types: deb\nURIs: {site}\nSuites: {' '.join(suites)}\nComponents: main\n"
        f"Architectures: amd64\nSigned-By: {keyring}\n"
        for site, suites in entries
    )


class Archive:
    """One Debian release, its lists in a folder of ours."""

    def __init__(self, suite: str, folder: Path) -> None:
        """Fetch the lists. Raises LabError."""
        self.suite = suite
        self._folder = folder
        self._configuration = folder / "apt.conf"
        for name in ("state/lists/partial", "cache/archives/partial", "sources.d"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        self._configuration.write_text(_CONFIGURATION.format(folder=folder))
        mirror = os.environ.get(MIRROR_VARIABLE)
        known = [] if mirror else machine_sources()
        text = debian_sources(known, suite, mirror, _keyring())
        (folder / "sources.d" / "lab.sources").write_text(text)
        hint = f"is the network there, has the mirror {suite}? {MIRROR_VARIABLE} sets another one"
        self._apt("update", hint=hint)

    def closure(self, *packages: str) -> list[str]:
        """`packages` and all that they depend on. Raises LabError where the archive lacks one."""
        return _INSTALLED.findall(self._apt("-s", "install", *packages))

    def kernel(self, meta: str) -> str:
        """The package with the kernel that `meta` stands for now. Raises LabError."""
        for name in self.closure(meta):
            if re.match(r"linux-image-[0-9]", name):
                return name
        raise LabError(f"{meta} of Debian {self.suite} brings no kernel")

    def download(self, packages: list[str], folder: Path) -> None:
        """The packages' files into `folder`, checked. Raises LabError."""
        folder.mkdir()
        self._apt("download", *packages, cwd=folder, hint="is the network there?")

    def _apt(self, *words: str, cwd: Path | None = None, hint: str | None = None) -> str:
        command = ["apt-get", "-q", "-y", "-c", str(self._configuration), *words]
        return run(command, cwd=cwd or self._folder, hint=hint)


def _keyring() -> Path:
    for path in _KEYRINGS:
        if path.is_file():
            return path
    raise LabError(
        "Debian's keyring is not on this machine, so its packages could not be checked",
        hint="as root: apt-get install debian-archive-keyring",
    )
