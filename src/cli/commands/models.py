"""`dreamforge model …`: what the API offers, and the models of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.client.connect import connect
from cli.commands.model_download import download, import_
from cli.commands.model_upkeep import disable, enable, remove, verify
from cli.commands.options import Out
from cli.terminal.output import Output, print_json, print_note
from cli.terminal.tables import print_list, print_pairs, print_table

if TYPE_CHECKING:
    from dreamforge_client import answers

app = typer.Typer(no_args_is_help=True, help="Bring in, list, check and remove models.")
for command in (download, verify, enable, disable, remove):
    app.command()(command)
app.command("import")(import_)


@app.command("list")
def list_(output: Out = Output.TABLE) -> None:
    """List the models that the API offers."""
    with connect() as client:
        listing = client.models()
        if output is Output.TABLE and not listing["models"]:
            print_note("no model yet: `dreamforge model download` and `import` bring one in")
            return
        rows = (
            (
                f"{model['name']}@{model['version']}",
                model["kind"],
                _yes(model["installed"]),
                _yes(model["enabled"]),
                _workers(model["warm"]),
                model["id"],
            )
            for model in listing["models"]
        )
        print_list(listing, output, ("model", "kind", "installed", "enabled", "warm", "id"), rows)


@app.command("show", hidden=True)  # what the other groups call it
@app.command()
def get(
    model: Annotated[str, typer.Argument(help="Id, name or name@version.")],
    output: Out = Output.TABLE,
) -> None:
    """Show one model and what it accepts."""
    with connect() as client:
        record = client.model(model)
        if output is Output.JSON:
            print_json(record)
            return
        print_pairs(
            ("id", record["id"]),
            ("name", record["name"]),
            ("version", record["version"]),
            ("kind", record["kind"]),
            ("family", record.get("family")),
            ("installed", record["installed"]),
            ("enabled", record["enabled"]),
            ("warm", _workers(record["warm"])),
        )
        rules = record["parameters_schema"].get("properties", {})
        print_table(
            ("parameter", "accepts", "default"), [_rule(name, rules[name]) for name in rules]
        )


def _rule(name: str, rule: answers.Parameter) -> tuple[str, str, str]:
    if "enum" in rule:
        accepts = ", ".join(str(value) for value in rule["enum"] if value is not None)
    elif "maxItems" in rule:
        accepts = f"up to {rule['maxItems']}"
    elif "maxLength" in rule:
        accepts = f"text, {rule['maxLength']} characters" if rule["maxLength"] else "nothing"
    elif rule.get("format") == "uuid":
        accepts = "a picture"
    else:
        accepts = _span(rule)
    if "default" not in rule:
        return name, accepts, "-"
    default = rule["default"]
    return name, accepts, "the model's own" if default is None else str(default)


def _span(rule: answers.Parameter) -> str:
    least, most = rule.get("minimum"), rule.get("maximum")
    if most is not None and least == most:
        return f"{_figure(most)} alone"
    bounds = []
    if least is not None and most is not None:
        bounds.append(f"{_figure(least)} to {_figure(most)}")
    elif least is not None:
        bounds.append(f"from {_figure(least)}")
    if "exclusiveMinimum" in rule:
        bounds.append(f"above {_figure(rule['exclusiveMinimum'])}")
    if least is None and most is not None:
        bounds.append(f"up to {_figure(most)}")
    if "multipleOf" in rule:
        bounds.append(f"a multiple of {_figure(rule['multipleOf'])}")
    return ", ".join(bounds)


def _figure(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _workers(ids: list[str]) -> str:
    match len(ids):
        case 0:
            return "no"
        case 1:
            return "on 1 worker"
        case number:
            return f"on {number} workers"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
