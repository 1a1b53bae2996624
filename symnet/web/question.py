"""What the page asks, and its answer piece by piece. Pictures come and go as bytes: nothing is stored, and no name is taken for a path."""

import base64
from collections.abc import Callable, Iterator
from io import BytesIO
from threading import Lock
from typing import Annotated, Any

from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from symnet.data.images import MAX_PIXELS, Pixels
from symnet.errors import UserError
from symnet.pictures import Uploaded, overlay, read_drawn_mask, read_picture, sheet, shown
from symnet.predict import Prediction, Predictor, Support, as_mask

MOST_PIXELS = 2 * MAX_PIXELS  # of all pictures of a question: each is held decoded until it is answered
ALONE = Lock()  # one model, one batch at a time

Piece = dict[str, Any]


class Sent(BaseModel):
    """A file of the browser's."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=255)]
    content: Base64Bytes

    def uploaded(self, what: str) -> Uploaded:
        """Under a name that says what it is."""
        return Uploaded(f"{what} ({self.name})", self.content)


class SentSupport(BaseModel):
    """A support picture and its mask. value: the object's in the mask, where it holds several."""

    model_config = ConfigDict(extra="forbid")
    image: Sent
    mask: Sent
    value: Annotated[int | None, Field(ge=1, le=255)] = None


class Question(BaseModel):
    """As `symnet predict` is asked."""

    model_config = ConfigDict(extra="forbid")
    supports: Annotated[list[SentSupport], Field(min_length=1)]
    queries: Annotated[list[Sent], Field(min_length=1)]
    word: Annotated[str, Field(min_length=1, max_length=100)]
    explain: bool = False


def read_question(body: bytes) -> Question:
    """Raises `UserError`, in one line."""
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(f"question: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def answer(predictor: Predictor, question: Question) -> Iterator[Piece]:
    """A note where the class was trained on, what the supports show, and a piece for each query. Raises `UserError`."""
    if len(question.supports) != predictor.shots:
        raise UserError(f"supports: found {len(question.supports)}, this run takes {predictor.shots}")
    counted = _counted()
    supports = [_support(one, number, counted) for number, one in enumerate(question.supports, 1)]
    queries = [counted(read_picture(one.uploaded("query"))) for one in question.queries]
    if predictor.seen(question.word):
        yield {"note": f"{question.word} is a base class of this run: it was trained on it, so this is no few-shot segmentation"}
    yield {"supports": [_as_url(overlay(one.image, one.mask), "JPEG") for one in supports]}
    found = predictor.predict(supports, queries, question.word, question.explain)
    for sent, image in zip(question.queries, queries, strict=True):
        with ALONE:
            prediction = next(found)
        yield _piece(sent.name, image, prediction)


def _support(sent: SentSupport, number: int, counted: Callable[[Pixels], Pixels]) -> Support:
    image, mask = sent.image.uploaded(f"support {number}"), sent.mask.uploaded(f"mask of support {number}")
    return Support(counted(read_picture(image)), as_mask(read_drawn_mask(mask, image), str(mask), sent.value))


def _counted() -> Callable[[Pixels], Pixels]:
    """A function that lets pictures pass until they are too many."""
    seen = 0

    def count(image: Pixels) -> Pixels:
        nonlocal seen
        seen += image.shape[0] * image.shape[1]
        if seen > MOST_PIXELS:
            raise UserError(f"pictures: more than {MOST_PIXELS // 10**6} million pixels in all; send fewer or smaller ones at once")
        return image

    return count


def _piece(name: str, image: Pixels, prediction: Prediction) -> Piece:
    """What the page shows of a query."""
    outputs = {}
    for output, soft in prediction.soft.items():
        mask = prediction.mask(output)
        pictures = {kind: _as_url(one, "JPEG" if kind == "overlay" else "PNG") for kind, one in shown(image, soft, mask).items()}
        outputs[output] = pictures | {"percent": round(100 * float(mask.mean()), 1)}
    explained = _as_url(sheet(image, prediction.explained | prediction.soft), "PNG") if prediction.explained else None
    return {"query": name, "outputs": outputs, "explained": explained}


def _as_url(image: Image.Image, kind: str) -> str:
    """A picture inside a link. JPEG is for what is only looked at: PNG takes seconds for a large photograph."""
    file = BytesIO()
    image.save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
