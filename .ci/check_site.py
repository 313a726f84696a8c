"""Checks the built pages: links, anchors, images, the form of links to elsewhere; what the search finds."""

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WORDS = ["FLOPs", "deploy", "ONNX", "pretrained", "LoRA", "sweep", "DDP", "resume"]
"""What newcomers look for; each has to be on a page that explains something, which the reference does not."""
NOT_EXPLAINED = ("reference/", "changelog/", "contributing/")
ELSEWHERE = re.compile(r"https://([a-z0-9-]+\.)+[a-z]{2,}(:\d+)?(/[^\s<>\"{}|\\^`]*)?(?<![.,;])")
UNWRITTEN = {"example.com", "example.org", "localhost"}


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what a tag links to or is linked by."""
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        if tag != "link" or found.get("rel") == "stylesheet":
            self.links += [value for key in ("href", "src") if (value := found.get(key)) is not None]


def faults(site: Path) -> Iterator[str]:
    """Yield what is wrong with links, page by page."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name != "404.html":  # its links begin at the root of a server
            for link in dict.fromkeys(page.links):
                if said := fault(link, path, pages):
                    yield f"{path.relative_to(site.resolve())}: {link!r} {said}"


def fault(link: str, path: Path, pages: dict[Path, Page]) -> str | None:
    """Say what is wrong with a link."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        good = ELSEWHERE.fullmatch(link) and parts.hostname not in UNWRITTEN
        return None if good or parts.scheme == "mailto" else "is no address that begins with https://"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return "leads nowhere"
    if target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "leads to a page without that anchor"
    return None


def not_found(site: Path) -> list[str]:
    """Return the words that the search does not lead from to a page that explains them."""
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    told = [entry for entry in entries if not entry["location"].startswith(NOT_EXPLAINED)]
    texts = [f"{entry['title']} {re.sub('<[^>]*>', ' ', entry['text'])}".lower() for entry in told]
    return [word for word in WORDS if not any(re.search(rf"\b{word.lower()}", text) for text in texts)]


built = Path(sys.argv[1])
wrong = [*faults(built), *(f"the search must find {word!r}" for word in not_found(built))]
if wrong:
    sys.exit("\n".join(wrong))
count = len(list(built.rglob("index.html")))
print(f"{count} pages: their links, anchors and images are there, and the search finds {', '.join(WORDS)}.")
