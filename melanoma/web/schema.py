"""What goes in and out over HTTP, as the service's OpenAPI describes it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST_SITE = 100  # characters
TITLES = {
    400: "Bad request", 403: "Forbidden", 404: "Not found", 405: "Method not allowed", 408: "Too slow",
    413: "Too large", 415: "Wrong kind of body", 421: "Misdirected", 422: "Cannot be answered", 500: "Failed",
    503: "Busy",
}  # fmt: skip


class Open(BaseModel):
    """Keeps what it does not know of, as figures may have more than what is described here."""

    model_config = ConfigDict(extra="allow")


class Figure(Open):
    """A figure with its interval."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = Field(description="why there is no value or interval")


class OperatingPoint(Open):
    """A threshold that was chosen on other patients, with what it reached."""

    wanted_sensitivity: float
    threshold: float = Field(description="of the score")
    probability: float = Field(description="the same place among calibrated probabilities")
    sensitivity: Figure
    specificity: Figure


class Model(Open):
    """The model that answers."""

    name: str
    use: str
    version: str
    sha256: str = Field(description="of the bundle's list of hashes")
    sizes_px: list[int]
    networks: int
    views: list[int]
    metadata: bool = Field(description="whether age, sex and site are looked at")
    sexes: list[str]
    sites: list[str]
    prevalence: float | None = Field(description="share of melanomas that probabilities hold for")
    prevalence_of_the_data: float | None
    auc: Figure
    control_auc: Figure | None = Field(description="the best that was reached with no look at a lesion")
    images: int
    melanomas: int
    operating_point: float | None
    operating_points: list[OperatingPoint]
    refer_between: list[float] | None = Field(description="calibrated probabilities")
    limits: list[str]
    licence: str
    max_images: int
    max_bytes: int


class AnswerOut(BaseModel):
    """What is said of one picture."""

    name: str
    status: Literal["melanoma", "benign", "refer", "not assessable", "error"]
    probability: float | None = Field(description="of melanoma, calibrated, for the prevalence where it is used")
    score: float | None = Field(description="the networks' own, with what age, sex and site add; ranks lesions best")
    label: Literal[0, 1] | None = Field(description="1 from the operating point on")
    words: str
    reasons: list[str] = Field(description="why it is not assessable")
    remarks: list[str]
    error: str | None = Field(description="why it could not be read")
    width: int | None
    height: int | None


class Area(BaseModel):
    """The model's AUC on held-out patients, with its interval; blank where it is not known."""

    value: float | None
    low: float | None
    high: float | None


class Predicted(BaseModel):
    """Answers in the order of the pictures."""

    model: str
    model_sha256: str
    model_auc: Area
    model_limits: list[str]
    use: str
    answers: list[AnswerOut]


class Explained(BaseModel):
    """An answer with where the network looked."""

    model: str
    model_sha256: str
    model_auc: Area
    model_limits: list[str]
    use: str
    answer: AnswerOut
    picture_png: str = Field(description="base64: the picture upright, made small, cut to what the network saw of it")
    image_png: str = Field(description="base64: the square that the first network saw, filters and all")
    map_png: str = Field(
        description="base64: to be stretched over either; red speaks for a score above the operating point, blue for "
        "one below, opacity says how much"
    )
    map: list[list[float]] = Field(description="each place's share of the logit")
    note: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    title: str
    status: int
    detail: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe statuses that come with a problem."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": TITLES[status], "content": content} for status in statuses}


def _body(field: str, picture: dict[str, Any]) -> dict[str, Any]:
    details = {
        "age_years": {"type": "number", "minimum": 0, "maximum": 120},
        "sex": {"type": "string", "enum": ["female", "male"]},
        "site": {"type": "string", "maxLength": LONGEST_SITE, "description": "anatomical site, one of the model's"},
        "prevalence": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    }
    schema = {
        "type": "object",
        "required": [field],
        "properties": {field: picture, **details},
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_FILE = {"type": "string", "format": "binary", "description": "JPEG, PNG, WEBP, TIFF, BMP or DICOM"}
PREDICT_BODY = _body("images", {"type": "array", "items": _FILE, "minItems": 1, "maxItems": 32})
EXPLAIN_BODY = _body("image", _FILE)
