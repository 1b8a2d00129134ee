"""Ask again for the images that could not be had, in place: `pairsieve retry RUN --reasons timeout,dns`.

The recipe is the one in ``run.yaml``.  What was measured of the pairs with these reasons is forgotten, then the run
goes on as if they had never been measured: they are fetched, later steps measure those that come, verdicts and
outputs are made again.  ``retry.json`` says that the forgetting is done, so that a retry that was stopped continues
instead of asking for the same URLs once more; the end of the run removes it.
"""

from collections.abc import Sequence

from pairsieve.filters._codes import RETRIED, Code
from pairsieve.pipelines.engines import EngineName
from pairsieve.pipelines.forget import Wanted
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.run import load, run
from pairsieve.pipelines.runner import Result
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import RunManifest

CODE = "download_code"
"""The filter's column with the reason."""
_SHORT = {
    "dns": Code.DNS_FAILURE,
    "connection": Code.CONNECTION_FAILED,
    "tls": Code.TLS_FAILURE,
    **{code.value.removeprefix("http_"): code for code in Code if code.value.startswith("http_")},
}
_VERDICTS = (Code.SUCCESS, Code.IMAGE_TOO_SMALL, Code.IMAGE_AREA_TOO_LARGE, Code.ASPECT_RATIO_TOO_LARGE)
USUAL = tuple(sorted(code.value for code in (*RETRIED, Code.TOO_SLOW, Code.HOST_DOWN)))
"""Reasons that another day may change."""


def retry(
    run_dir: str,
    reasons: Sequence[str] = USUAL,
    *,
    steps: Sequence[str] = (),
    overrides: Sequence[str] = (),
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> Result:
    """Download again what failed for some reasons, and bring the run up to date; gives the finished run.

    ``steps`` are download steps, all of them by default; ``overrides`` are settings that do not decide what is
    measured, such as ``filters.download.timeout=60``.  Raises ``UserError`` for anything that cannot be done.
    """
    codes = tuple(sorted({code(reason) for reason in reasons}))
    recipe = manifest(Store(run_dir))
    _, plan, _ = load(recipe.recipe, overrides)
    _check_same(recipe, plan)
    return run(
        recipe.recipe,
        run_dir,
        overrides=overrides,
        engine=engine,
        ray_address=ray_address,
        workers=workers,
        progress=progress,
        forget=Wanted(_chosen(plan, steps), CODE, codes),
    )


def code(reason: str) -> str:
    """A reason by its name, or the short one; raises ``UserError`` for any other."""
    text = reason.strip().lower()
    known = [code.value for code in Code if code not in _VERDICTS]
    found = _SHORT[text].value if text in _SHORT else text
    if found not in known:
        raise UserError(f"--reasons {reason}: there are {', '.join(known)}; dns, connection, tls, 429, 5xx for short")
    return found


def _check_same(manifest: RunManifest, plan: Plan) -> None:
    """An override that decides what is measured would forget everything."""
    before = {step.id: step.fingerprint for step in manifest.steps}
    for step in plan.steps:
        if before.get(step.id) != step.fingerprint:
            raise UserError(
                f"step {step.id} would measure all pairs again, not some: its settings, model or pool are others than "
                "those of the run; pairsieve plan says why"
            )


def _chosen(plan: Plan, steps: Sequence[str]) -> tuple[str, ...]:
    known = [step.id for step in plan.steps if CODE in step.writes]
    if not known:
        raise UserError("the run has no download step: there is nothing to fetch again")
    for name in steps:
        if name not in known:
            raise UserError(f"--step {name}: no download step; there are {', '.join(known)}")
    return tuple(steps) or tuple(known)
