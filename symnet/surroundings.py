"""What a run was made in and of: packages, machine, and how the code differs from its commit. Written when it starts, beside its journal.

    environment-{sum}.txt     python, driver, GPU as comments; every package with its version: `pip install -r` reads it
    code-{sum}.diff           what tracked files of the code differ in, where they do

`sum` is of the content: runs that start alike share a file. Nothing here is from the environment's variables, where secrets are.
"""

import hashlib
import platform
import re
from importlib import metadata
from pathlib import Path

from symnet.artifacts import write_text_if_changed
from symnet.journal import code_version, git

FOLDERS = ("symnet", "workflow", "config")
LARGEST = 1_000_000  # characters of a diff
NAME = re.compile(r"(?:environment|code)-([0-9a-f]{16})\.(?:txt|diff)")
DRIVER = Path("/proc/driver/nvidia/version")


def capture(folder: Path) -> dict[str, str]:
    """Write both files into `folder`. Returns the tags of a journal that name them: `environment`, and `diff` where there is one."""
    found = {"environment": ("environment", "txt", environment()), "diff": ("code", "diff", code_diff())}
    tags = {}
    for tag, (stem, suffix, text) in found.items():
        if text:
            tags[tag] = f"{stem}-{_sum(text.encode())}.{suffix}"
            write_text_if_changed(folder / tags[tag], text)
    return tags


def captured(folder: Path, name: str) -> Path | None:
    """The file that a tag names, if it is there and whole."""
    known, path = NAME.fullmatch(name), folder / name
    return path if known and path.is_file() and _sum(path.read_bytes()) == known[1] else None


def environment() -> str:
    """The lock of this environment."""
    import torch  # here: those who read what was captured need none

    version = code_version()
    commit = version.get("git_commit", "of no known commit: not a git checkout, or no git here")
    lines = [f"# python {platform.python_version()}, {platform.system()} {platform.machine()}", f"# symnet {version['version']}, {commit}"]
    lines.append(f"# torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version() or 'none'}")
    lines.append(f"# driver {_driver()}")
    if torch.cuda.is_available():
        lines += [f"# GPU {i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    packages = {(one.metadata["Name"], one.version) for one in metadata.distributions() if one.metadata["Name"]}
    return "\n".join([*lines, *sorted((f"{name}=={version}" for name, version in packages), key=str.lower)]) + "\n"


def code_diff() -> str:
    """What the tracked files of the code differ in from their commit; empty where nothing does, or where there is no git checkout.

    New files are named, not shown. A password in an address is masked.
    """
    root = Path(__file__).parent.parent
    if "git_commit" not in code_version():
        return ""
    # no program of a git configuration is run on what is compared
    changed = git(root, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD", "--", *FOLDERS) or ""
    new = (git(root, "ls-files", "--others", "--exclude-standard", "--", *FOLDERS) or "").splitlines()
    text = "".join(f"# new, not shown: {name}\n" for name in new) + (f"{changed}\n" if changed else "")
    text = re.sub(r"(\w://)[^/@\s]+@", r"\1***@", text)
    return text if len(text) <= LARGEST else f"{text[:LARGEST]}\n# cut here: {len(text)} characters in all\n"


def _driver() -> str:
    try:
        return DRIVER.read_text().splitlines()[0].removeprefix("NVRM version:").strip()
    except (OSError, IndexError):
        return "none"


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
