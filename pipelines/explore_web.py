"""The explorer's web application: a page, its four files, and answers in JSON.  Everything passes the guard."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from pairsieve.pipelines.explore_guard import App, Guard
from pairsieve.pipelines.explore_images import SIDES, NoPictureError
from pairsieve.pipelines.explore_ladder import SupersededError
from pairsieve.pipelines.explore_moves import Moved
from pairsieve.pipelines.explore_query import LONGEST, MOST_ROWS
from pairsieve.pipelines.explore_session import Session
from pairsieve.schemas.errors import PairsieveError, UserError

RunName = Literal["one", "other"]
ASSETS = {
    "/": ("explore.html", "text/html"),
    "/look.css": ("look.css", "text/css"),
    "/explore.css": ("explore.css", "text/css"),
    "/explore.js": ("explore.js", "text/javascript"),
    "/explore_dom.js": ("explore_dom.js", "text/javascript"),
    "/explore_grid.js": ("explore_grid.js", "text/javascript"),
    "/explore_cut.js": ("explore_cut.js", "text/javascript"),
    "/explore_compare.js": ("explore_compare.js", "text/javascript"),
    "/explore_story.js": ("explore_story.js", "text/javascript"),
}
"""Address -> file beside this one: nothing else is served from disk."""


class Body(BaseModel):
    """A question in JSON; nothing unknown in it."""

    model_config = ConfigDict(extra="forbid")


class PageBody(Body):
    """A page of pairs."""

    run: RunName = "one"
    where: str = Field("", max_length=LONGEST + 1)
    order: str | None = None
    descending: bool = False
    start: int = Field(0, ge=0)
    rows: int = Field(60, ge=1, le=MOST_ROWS)
    columns: list[str] = Field([], max_length=500)


class MovedBody(Body):
    """Settings of a step as they would be."""

    step: str
    setting: str
    changes: dict[str, int | float | None] = Field({}, max_length=50)
    ticket: int = Field(ge=0)


class SidesBody(Body):
    """Pairs that one run keeps and the other does not."""

    side: Literal["both", "one", "other", "none"]
    step: str | None = None
    reason: str | None = None
    start: int = Field(0, ge=0)
    rows: int = Field(60, ge=1, le=MOST_ROWS)


class WhereBody(Body):
    """A condition."""

    where: str = Field(max_length=LONGEST + 1)


class SearchBody(Body):
    """A text to look for."""

    text: str = Field(max_length=1_000)


def application(session: Session, token: str, port: int) -> App:
    """The ASGI application, guarded."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_assets(app)
    _add_errors(app)
    _add_pairs(app, session)
    _add_thresholds(app, session)
    _add_comparison(app, session)
    return Guard(app, token, port)


def _add_assets(app: FastAPI) -> None:
    here = Path(__file__).parent

    def serve(file: str, kind: str) -> Callable[[], Response]:
        content = (here / file).read_bytes()

        def get() -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8")

        return get

    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), methods=["GET"])
    for address, (file, kind) in ASSETS.items():
        app.add_api_route(address, serve(file, kind), methods=["GET"])


def _add_errors(app: FastAPI) -> None:
    """What a user asks and cannot have is an answer too: 200 with ``error``, so that a console shows defects only."""

    async def of_user(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 200 if isinstance(error, UserError) else 500)

    async def superseded(_: Request, error: Exception) -> Response:
        return JSONResponse({"superseded": True})

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{place}: {first['msg']}"}, 422)

    async def no_picture(_: Request, error: Exception) -> Response:
        why = str(error).encode("ascii", "replace").decode()[:200]
        return Response(status_code=204, headers={"x-why": "".join(c if c.isprintable() else " " for c in why)})

    app.add_exception_handler(PairsieveError, of_user)
    app.add_exception_handler(SupersededError, superseded)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(NoPictureError, no_picture)


def _add_pairs(app: FastAPI, session: Session) -> None:
    @app.get("/api/overview")
    def overview() -> dict[str, Any]:
        return session.overview()

    @app.get("/api/changed")
    def changed() -> dict[str, bool]:
        return {"changed": session.has_changed()}

    @app.post("/api/pairs")
    def page(body: PageBody) -> dict[str, Any]:
        run = session.run(body.run)
        return run.page(body.where, body.order, body.descending, body.start, body.rows, body.columns)

    @app.get("/api/story/{run}/{number}")
    def story(run: RunName, number: int) -> dict[str, Any]:
        return session.run(run).story(number)

    @app.get("/api/thumbnail/{run}/{number}/{side}")
    def thumbnail(run: RunName, number: int, side: Annotated[int, Field(ge=SIDES[0], le=SIDES[1])]) -> Response:
        wanted = min(SIDES, key=lambda known: abs(known - side))
        return Response(session.run(run).thumbnail(number, wanted), media_type="image/jpeg")

    @app.post("/api/search")
    def search(body: SearchBody) -> dict[str, Any]:
        return session.one.search(body.text)


def _add_thresholds(app: FastAPI, session: Session) -> None:
    @app.post("/api/moved")
    def moved(body: MovedBody) -> dict[str, Any]:
        return session.one.moves.moved(Moved(body.step, body.setting, body.changes, body.ticket))

    @app.post("/api/step")
    def step(body: WhereBody) -> dict[str, Any]:
        return session.one.where_step(body.where)

    @app.get("/api/uids")
    def uids(
        run: RunName, kind: Literal["npy", "csv"], where: Annotated[str, Field(max_length=LONGEST)] = ""
    ) -> Response:
        name = {"content-disposition": f'attachment; filename="pairsieve_uids.{kind}"'}
        return Response(session.run(run).uids(where, kind), media_type="application/octet-stream", headers=name)


def _add_comparison(app: FastAPI, session: Session) -> None:
    @app.get("/api/overlap")
    def overlap() -> dict[str, Any]:
        return session.compare().overlap()

    @app.post("/api/sides")
    def sides(body: SidesBody) -> dict[str, Any]:
        return session.compared(body.side, body.step, body.reason, body.start, body.rows)

    @app.get("/api/correlation")
    def correlation(column: str) -> dict[str, Any]:
        return session.compare().correlation(column)
