"""``CITATION.bib``: what a paper about this run has to cite, as far as it is known."""

from __future__ import annotations

from typing import Any

from reports.paper import names
from reports.summary import Summary

FIELDS = ("title", "author", "booktitle", "journal", "year")
HEADER = (
    "% The methods of this run, lmms-eval that scored it, and the data of its benches.",
    "% Written from what the papers say; look them through before you print them.",
)


def render(summary: Summary) -> str:
    """Entries in the order methods, lmms-eval, benches; each once."""
    known = names.references()
    lines = list(HEADER)
    entries: dict[str, str] = {}
    unknown = []
    for method in dict.fromkeys(series.method for series in summary.series):
        entry = known["methods"].get(method)
        if entry is None:
            unknown.append(f"% {method}: a method of your own; add what it is to be cited by.")
        elif "key" in entry:
            entries[entry["key"]] = bibtex(entry)
    entries[known["lmms-eval"]["key"]] = bibtex(known["lmms-eval"])
    for bench in summary.benches:
        entry = known["benches"].get(bench)
        if entry is None:
            unknown.append(f"% {bench}: nothing is known of this data; add its entry.")
            continue
        said = ""
        if summary.is_mini_bench(bench):
            said = (
                f"% {bench}: this run read mini data in the form of {entry['name']}, "
                f"not {entry['name']} itself.\n"
            )
        if entry["key"] not in entries:
            entries[entry["key"]] = said + bibtex(entry)
    return "\n\n".join(["\n".join([*lines, *unknown]), *entries.values()]) + "\n"


def bibtex(entry: dict[str, Any]) -> str:
    """One entry; a field that is not known is not there."""
    kind = "inproceedings" if "booktitle" in entry else "article" if "journal" in entry else "misc"
    fields = [(name, entry[name]) for name in FIELDS if name in entry]
    if "eprint" in entry:
        fields += [("eprint", entry["eprint"]), ("archivePrefix", "arXiv")]
        if kind == "misc":  # a style without eprint would print no source at all
            fields.append(("howpublished", f"arXiv:{entry['eprint']}"))
    inside = ",\n".join(f"  {name:<13} = {{{_accented(str(value))}}}" for name, value in fields)
    return f"@{kind}{{{entry['key']},\n{inside}\n}}"


def _accented(value: str) -> str:
    """Accents as BibTeX of any age reads them."""
    return value.replace("è", r"{\`e}")
