#!/usr/bin/env python3
# Cuts the header into slices that an analyzer can go through: one section's functions, of the others only prototypes.
"""
slice.py HEADER                     names the sections that have functions
slice.py HEADER SECTION [--plant]   prints the implementation with the function bodies of this section alone. Memory of
    the library's allocator is then memory for the analyzer, too. --plant: a double free at the head of each function
It goes by the header's style: a function begins in column 0, and ends with a brace there or on its first line.
"""
import re, sys

SECTION = re.compile(r"/\* ==== >>(\w+) ")
HEAD = re.compile(r"(?!#|typedef|struct |union |enum |extern |/|\*|\}|\s)[A-Za-z_].*\(")
# What the allocator gives must be given back to it, once: gcc believes that only of functions that say so.
BACK = "void azri_free(const azri_mem *m, void *p, size_t n); void azri_strfree(const azri_mem *m, char *z); "
ATTRIBUTES = {"azri_alloc": "azri_free, 2", "azri_zalloc": "azri_free, 2", "azri_strdup": "azri_strfree, 2"}
PLANT = " { void *azri_p = __builtin_malloc(1); __builtin_free(azri_p); __builtin_free(azri_p); }"

def functions(lines):
    """(first, last line of the head, last line) of each function."""
    at = 0
    while at < len(lines):
        if not HEAD.match(lines[at]):
            at += 1
            continue
        head = at
        while head + 1 < len(lines) and not re.search(r"[;{}]|=", lines[head]):
            head += 1
        if not re.search(r"\)\s*\{", lines[head]) or "=" in lines[head].split("{")[0]:
            at = head + 1
            continue
        end = head
        if not lines[head].rstrip().endswith("}"):
            while lines[end] != "}":
                end += 1
        yield at, head, end
        at = end + 1

def main():
    with open(sys.argv[1]) as f:
        lines = f.read().split("\n")
    wanted, plant = (sys.argv[2:3] or [None])[0], "--plant" in sys.argv
    section, of, have = None, [], []
    for line in lines:
        m = SECTION.match(line)
        section = m.group(1) if m else None if line.startswith("/* ==== ") else section
        of.append(section)
    out = list(lines)
    for first, head, end in functions(lines):
        if of[first] is None:
            continue
        if of[first] not in have:
            have.append(of[first])
        text = "\n".join(lines[first:end + 1])
        sign, body = re.match(r"(?:static )?(?:inline |AZRI_ALONG |AZRI_INLINE )?(.*?\)) (\{.*)", text, re.S).groups()
        out[first:end + 1] = [""] * (end + 1 - first)
        if of[first] == wanted:
            out[first] = sign + " {" + (PLANT if plant else "") + body[1:]
        else:
            deal = ATTRIBUTES.get(re.search(r"(\w+)\)?\(", sign).group(1))
            out[first] = (BACK if deal else "") + sign + (" __attribute__((malloc, malloc(%s)))" % deal if deal else "") + ";"
    if wanted is None:
        print("\n".join(have))
        return
    # Prototypes that the header has of its own functions are static; the slice's are not.
    text = re.sub(r"(?m)^static (?!inline)([^=;{]*\)(?: \w+)*;)", r"\1", "\n".join(out))
    print("#define AZREDIS_ENTRA_IMPLEMENTATION\n" + text)

if __name__ == "__main__":
    main()
