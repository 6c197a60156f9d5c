"""What a package index shows of this project; all else is in setup.cfg.

The README has relative links, which work in a checkout and on the code host. An index
shows it on a site of its own: there they lead to `url` of setup.cfg, at the tag of the
version that is built.
"""

import re
from pathlib import Path

from setuptools import setup
from setuptools.config.setupcfg import read_configuration

ROOT = Path(__file__).resolve().parent
RELATIVE = re.compile(r"""(\]\(|(?:src|srcset|href)=")(?![a-z]+:|#)([^)"\s]+)""")
PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")

metadata = read_configuration(ROOT / "setup.cfg")["metadata"]
url, tag = metadata["url"], f"v{metadata['version']}"


def absolute(link: "re.Match[str]") -> str:
    """Return a link or picture of the README with its address on the code host."""
    start, target = link.groups()
    kind = "raw" if target.lower().endswith(PICTURES) else "blob"
    return f"{start}{url}/{kind}/{tag}/{target}"


readme = (ROOT / "README.md").read_text(encoding="utf-8")
setup(
    long_description=RELATIVE.sub(absolute, readme),
    project_urls={
        "Source": url,
        "Documentation": f"{url}/blob/{tag}/docs/index.md",
        "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    },
)
