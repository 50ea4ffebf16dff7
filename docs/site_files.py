"""A hook of MkDocs: files outside docs/ that its pages link are part of the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = re.compile(r'\]\(\.\./(configs/[^)#]+)')


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links of a page lead to copies in the site, and copy the files."""
    root = Path(config.config_file_path).parent
    for name in set(OUTSIDE.findall(markdown)):
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return OUTSIDE.sub(r'](\1', markdown)
