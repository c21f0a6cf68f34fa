"""The Homebrew formula, for one source archive."""

import archives
import project
from project import DIST, ROOT


def make(source, url):
    text = (ROOT / "packaging" / "homebrew" / "ipcluster.rb").read_text()
    values = {"URL": url, "VERSION": project.version(), "SHA256": archives.digest(source)}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (DIST / "ipcluster.rb").write_text(text)
