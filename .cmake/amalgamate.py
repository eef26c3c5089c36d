#!/usr/bin/env python3
"""Writes casa_attention.hpp: attention in one header, for online compilers and single-file programs.

    python3 .cmake/amalgamate.py casa_attention.hpp

It holds what these headers include of casa; only Eigen and the standard library (and the system's
headers for threads and vectors) are still included by it.
"""
import argparse
import pathlib
import re

DOORS = [
    "casa/attention/attend.hpp",  # views and pieces in, any intervals
    "casa/attention/simple.hpp",  # Eigen matrices in; varlen
    "casa/stream/visibility.hpp",  # what the tokens of a stream of text and images see
    "casa/core/build_info.hpp",
]
INCLUDE = re.compile(r'\s*#\s*include\s*(?:"(casa/[^"]+)"|(<[^>]+>))')


class Amalgamation:
    def __init__(self, folder):
        self.folder = folder
        self.done = set()
        self.lines = []

    def add(self, header):
        """The header's lines, with those of casa's that it includes, each once, where it says so."""
        if header in self.done:
            return
        self.done.add(header)
        self.lines.append(f"// ---- {header}")
        depth = 0  # of #if: what is included on a condition is left as it is
        for line in (self.folder / header).read_text(encoding="utf-8").splitlines():
            found = INCLUDE.match(line)
            if re.match(r"\s*#\s*if", line):
                depth += 1
            elif re.match(r"\s*#\s*endif", line):
                depth -= 1
            if line.strip() == "#pragma once":
                continue
            if found and found.group(1):
                if depth:
                    raise SystemExit(f"{header}: an #include of casa inside an #if: {line}")
                self.add(found.group(1))
            elif found and not depth:
                if found.group(2) not in self.done:
                    self.done.add(found.group(2))
                    self.lines.append(line)
            else:
                self.lines.append(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=pathlib.Path, help="the header to write")
    parser.add_argument("--include", type=pathlib.Path, help="the folder that holds casa/",
                        default=pathlib.Path(__file__).resolve().parent.parent / "include")
    options = parser.parse_args()

    attention = Amalgamation(options.include)
    for door in DOORS:
        attention.add(door)
    config = "\n".join(attention.lines)
    version = ".".join(re.search(rf"define CASA_VERSION_{part} (\d+)", config).group(1)
                       for part in ("MAJOR", "MINOR", "PATCH"))
    head = [
        f"// Attention of casa {version} in one header, made by .cmake/amalgamate.py from the headers",
        "// named below; change those, not this. It needs C++20 and Eigen 3.4 or newer. Compile with",
        "// -O3 -DNDEBUG -march=native: without optimisation it is a hundred times slower.",
        "//",
    ]
    licence = (options.include.parent / "LICENSE")
    if licence.exists():
        head += ["// " + line if line else "//"
                 for line in licence.read_text(encoding="utf-8").strip().splitlines()]
    text = "\n".join(head + ["#pragma once", ""] + attention.lines)
    options.output.write_text(re.sub(r"\n{3,}", "\n\n", text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
