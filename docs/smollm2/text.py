#!/usr/bin/env python3
"""Writes the English text of Debian's documentation packages as JSON lines, one document per line.

usage: text.py FOLDER OUT.jsonl     (FOLDER: where the packages were unpacked with dpkg -x)

Pages of HTML lose their markup, and what is navigation or a listing of names; pods, dictionaries and collections of quotations are split where
their formats say. Files are taken in the order of their paths, so that the same packages give the same bytes.
"""

import gzip
import html.parser
import json
import re
import sys
from pathlib import Path

SKIP = {"script", "style", "head", "nav", "title"}
BREAK = {"p", "div", "li", "br", "h1", "h2", "h3", "h4", "h5", "pre", "tr", "dt", "dd", "ul", "ol", "table", "blockquote"}
# Texts shorter than this are titles and stubs.
SHORTEST = 200


class Page(html.parser.HTMLParser):
    """Collects the text of a page; a paragraph is one line, a listing keeps its lines."""

    def __init__(self):
        super().__init__()
        self.parts, self.skip, self.listing = [], 0, 0

    def handle_starttag(self, tag, attributes):
        self.skip += tag in SKIP
        self.listing += tag == "pre"
        if tag in BREAK:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.skip -= tag in SKIP and self.skip > 0
        self.listing -= tag == "pre" and self.listing > 0
        if tag in BREAK:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.skip:
            self.parts.append(data if self.listing else re.sub(r"\s+", " ", data))

    def text(self):
        return "".join(self.parts)


def tidy(text):
    """At most one empty line between paragraphs, and no spaces at the ends of lines."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def pages(folder):
    for path in sorted(folder.rglob("*.html")):
        page = Page()
        page.feed(path.read_text("utf-8", "replace"))
        yield path, page.text()


def pods(folder):
    for path in sorted(folder.rglob("*.pod")):
        text = path.read_text("utf-8", "replace")
        # B<bold>, L<link|to>: the text alone. Commands such as =head1 go with their word.
        for _ in range(3):
            text = re.sub(r"[A-Z]<(?:[^<>|]*\|)?([^<>]*)>", r"\1", text)
        yield path, re.sub(r"^=\w+ ?", "", text, flags=re.M)


def entries(folder):
    """The articles of dictionaries in the format of dictd: an index of words, offsets and lengths in base 64."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def number(word):
        value = 0
        for c in word:
            value = value * 64 + digits.index(c)
        return value

    for index in sorted(folder.rglob("*.index")):
        data = gzip.decompress(index.with_suffix(".dict.dz").read_bytes())
        places = {tuple(map(number, line.split("\t")[1:3])) for line in index.read_text("utf-8").splitlines()}
        for start, length in sorted(places):
            yield index, data[start : start + length].decode("utf-8", "replace")


def quotations(folder):
    for path in sorted(folder.glob("usr/share/games/fortunes/*")):
        if path.is_file() and path.suffix not in {".dat", ".u8"}:
            for text in path.read_text("utf-8", "replace").split("\n%\n"):
                yield path, text


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    documents, seen, size = 0, set(), 0
    part = out.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        english = [folder / "usr/share/doc/anarchism", folder / "usr/share/doc/git-doc", folder / "usr/share/doc/debian-handbook/html/en-US"]
        sources = [*map(pages, english), pods(folder), entries(folder), quotations(folder)]
        for source in sources:
            for path, raw in source:
                text = tidy(raw)
                if len(text) < SHORTEST or text in seen:
                    continue
                seen.add(text)
                documents, size = documents + 1, size + len(text)
                file.write(json.dumps({"text": text, "from": str(path.relative_to(folder))}, ensure_ascii=False) + "\n")
    if not documents:
        sys.exit(f"{folder} has none of the documents: unpack the packages there with dpkg -x")
    part.rename(out)
    print(f"{documents} documents, {size / 1e6:.1f} million characters in {out}")


if __name__ == "__main__":
    main()
