"""The reference of all settings, from the models of `symnet.config`: `python -m symnet.config_reference` writes both files.

`config/README.md` is for reading; `config/schema.json` lets an editor complete and check an experiment file.
"""

import json
from pathlib import Path
from typing import Any

from symnet.artifacts import write_text
from symnet.config import SECTIONS, Settings
from symnet.config_methods import Group
from symnet.experiment import FOLD_SECTIONS, GATHERED, ROW_SECTIONS, AblationTable, Experiment
from symnet.methods import METHODS

FOLDER = Path(__file__).resolve().parent.parent / "config"
Schema = dict[str, Any]

EXTENDS = "files beside this one that it is laid over, first to last"
HEAD = """# Settings

Written by `python -m symnet.config_reference` from `symnet/config.py`: edit that, not this file.

An experiment file holds the keys of the first table, and any of the sections below for the whole benchmark. What it leaves out has the
default. Later overrides earlier, key by key:

1. the defaults below
2. the files that `extends` names, first to last
3. the file's own sections
4. `presets.NAME`, where `preset: NAME` or `snakemake --config preset=NAME` chooses it; it may hold any other key of the file
5. `datasets.NAME`: sections for one data set
6. `folds.N`, then `datasets.NAME.folds.N`: FOLD_SECTIONS for one fold; what is measured is the same for all folds
7. `variants.NAME`: ROW_SECTIONS for one row of the tables, in all folds; base learner and features are shared by all rows
8. what a command line sets: `snakemake --config set='train.steps=10 train.lr=1e-3'`, `symnet ... --set train.steps=10`. Of a section, for
   all data sets and folds; `datasets.NAME.folds.0.train.lr=0.01` reaches one. Values are YAML. What a variant differs in cannot be set
   for all rows; `variants.NAME.model.tau1=0.6` can

`extends` is the name of a file beside this one, or a list of such names. Null in place of a data set, variant, table or group leaves it
out. A mapping is merged, anything else (a list, too) is replaced. A later `epochs` takes the place of an earlier `steps`. An unknown key, a
wrong type (text for a number) or an impossible value ends every command with one line and exit code 2, before anything is written.
"""


def schema() -> Schema:
    """JSON schema (2020-12) of an experiment file."""
    settings, experiment = Settings.model_json_schema(), Experiment.model_json_schema()
    sections = {name: {"$ref": settings["properties"][name]["$ref"]} for name in SECTIONS}
    own = {name: value for name, value in experiment["properties"].items() if name not in GATHERED}
    by_fold = {"type": "object", "propertyNames": {"pattern": r"^\d+$"}, "additionalProperties": {"$ref": "#/$defs/Fold"}}
    own["folds"] = by_fold | {"description": own["folds"]["description"]}
    own["datasets"] = own["datasets"] | {"additionalProperties": {"$ref": "#/$defs/Dataset"}}
    own["presets"] = own["presets"] | {"additionalProperties": {"$ref": "#/$defs/Preset"}}
    own["variants"] = own["variants"] | {"additionalProperties": {"$ref": "#/$defs/Variant"}}
    for key in ("datasets", "variants", "tables", "groups"):
        named = own[key].pop("patternProperties", {})
        inside = next(iter(named.values()), own[key].get("additionalProperties", True))
        if key in ("datasets", "variants"):
            inside = own[key]["additionalProperties"]
        own[key]["additionalProperties"] = {"anyOf": [inside, {"type": "null"}]}  # null: left out of what is extended
        own[key]["propertyNames"] = {key: own["experiment"][key] for key in ("pattern", "maxLength")}
        own[key].pop("minProperties", None)
    own["extends"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "description": EXTENDS}
    overrides = {name: value for name, value in own.items() if name not in ("preset", "presets")}
    definitions = (
        settings["$defs"]
        | experiment["$defs"]
        | {
            "Fold": _closed({name: sections[name] for name in FOLD_SECTIONS}),
            "Dataset": _closed(sections | {"folds": by_fold}),
            "Variant": _closed({"method": {"enum": list(METHODS)}} | {name: sections[name] for name in ROW_SECTIONS})
            | {"required": ["method"]},
            "Preset": _closed(overrides | sections),
        }
    )
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "symnet experiment"}
    whole = {"anyOf": [{"required": experiment["required"]}, {"required": ["extends"]}]}
    return head | _untitled(_closed(own | sections) | whole | {"$defs": definitions})


def readme() -> str:
    """Every key with its type, default, limits and meaning, in Markdown."""
    fold_sections = ", ".join(f"`{name}`" for name in FOLD_SECTIONS)
    row_sections = ", ".join(f"`{name}`" for name in ROW_SECTIONS)
    parts = [HEAD.replace("FOLD_SECTIONS", fold_sections).replace("ROW_SECTIONS", row_sections)]
    whole = Experiment.model_json_schema()
    parts.append(_table("The experiment", Experiment.__doc__, "", whole, skip=GATHERED))
    parts.append(_table("`tables.NAME`", AblationTable.__doc__, "", whole["$defs"]["AblationTable"]))
    definitions = Settings.model_json_schema()["$defs"]
    for name, field in Settings.model_fields.items():
        assert field.annotation is not None
        parts.append(_table(f"`{name}`", field.annotation.__doc__, f"{name}.", definitions[field.annotation.__name__]))
    parts.append(_table("A group of a `recipe`", Group.__doc__, "", definitions["Group"]))
    return "\n".join(parts)


def _table(title: str, about: str | None, prefix: str, model: Schema, skip: tuple[str, ...] = ()) -> str:
    lines = [f"## {title}", "", " ".join((about or "").split()), ""]
    lines += ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key, found in model["properties"].items():
        if key in skip:
            continue
        default = f"`{json.dumps(found['default'])}`" if "default" in found else "required"
        cells = (f"`{prefix}{key}`", _kind(found), default, _allowed(found), found["description"])
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _kind(found: Schema) -> str:
    """The type in plain words."""
    if "anyOf" in found:
        return " or ".join(_kind(one) for one in found["anyOf"])
    if "enum" in found:
        return "choice"
    if "$ref" in found:
        return "group"
    if found["type"] == "array":
        items = found.get("prefixItems") or [found["items"]]
        return f"list of {f'{len(items)} ' if 'prefixItems' in found else ''}{PLURAL[_kind(items[0])]}"
    return PLAIN[found["type"]]


PLAIN = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping", "null": "null"}
NAME = "letters, digits and `_.-`, a letter or digit first, 80 at most"
PLURAL = {"whole number": "whole numbers", "number": "numbers", "text": "texts", "choice": "choices", "group": "groups"}


def _allowed(found: Schema) -> str:
    """Limits and choices in plain words; empty where there are none."""
    if "anyOf" in found:
        return "; ".join(filter(None, (_allowed(one) for one in found["anyOf"])))
    if "enum" in found:
        return ", ".join(f"`{value}`" for value in found["enum"])
    low, above, high = found.get("minimum"), found.get("exclusiveMinimum"), found.get("maximum")
    words = [f"above {above}"] if above is not None else []
    if low is not None:
        words.append(f"{low} to {high}" if high is not None else f"{low} and more")
    if "pattern" in found:
        words.append(NAME)
    if found.get("minItems", 0) and "prefixItems" not in found:
        words.append("one and more, each once")
    if "enum" in found.get("propertyNames", {}):
        words.append("keys: " + _allowed(found["propertyNames"]))
    if "patternProperties" in found:
        words.append("keys: " + NAME)
    if "items" in found:
        words.append(_allowed(found["items"]))
    return "; ".join(filter(None, words))


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _untitled(found: Any) -> Any:
    """Without the titles that pydantic makes of names."""
    if isinstance(found, dict):
        return {key: _untitled(value) for key, value in found.items() if not (key == "title" and isinstance(value, str))}
    return [_untitled(value) for value in found] if isinstance(found, list) else found


def texts() -> dict[str, str]:
    """Both files by name."""
    return {"README.md": readme(), "schema.json": json.dumps(schema(), indent=1) + "\n"}


if __name__ == "__main__":
    for name, text in texts().items():
        write_text(FOLDER / name, text)
