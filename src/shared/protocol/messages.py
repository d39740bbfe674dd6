"""The messages between a worker and a runner, inside `shared.protocol.frames`.

    worker                          runner
      |  <---------- ready ---------  |   imported, waits; no CUDA context yet
      |  ------------ go ---------->  |   RunSpec; `running` is committed
      |  <----- stage, progress ----  |
      |  <-------- artifact --------  |   body = the encoded image
      |  <---------- want ----------  |   asks for an input; one open request at a time
      |  ---------- input --------->  |   body = that picture
      |  ---------- lease --------->  |   re-arms the lease timer
      |  ---------- show ---------->  |   asks for one preview: a client looks
      |  <-------- preview ---------  |   body = a small JPEG
      |  --------- cancel --------->  |   polite; a signal follows
      |  <--- result | failure -----  |   then it exits

Every message is checked against these classes on arrival, on both sides. Unknown fields are
refused: both ends come from one release, so a field that only one of them knows is a bug.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared.limits import MAX_COUNT, MAX_LORA_SCALE, MAX_LORAS, MAX_REFERENCES, MAX_SEED
from shared.protocol.frames import FrameError

# Version of these messages and of what a job type is; docs/job-types.md has its history.
INTERFACE = 7


ItemIndex = Annotated[int, Field(ge=0, lt=MAX_COUNT)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Format = Literal["png", "jpg", "webp"]
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
# What a picture is to the step that starts from it. Of a mask white is painted anew, of an alpha
# mask what is transparent.
InputRole = Literal["image", "mask", "alpha_mask", "reference"]
# Visually lossless for photographs; above it files grow fast (benchmarks/pictures).
JPEG_QUALITY = 95
MAX_PREVIEW_SIDE = 512  # pixels
MAX_PREVIEW_BYTES = 64 << 10
Quality = Annotated[int, Field(ge=1, le=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_T = TypeVar("_T")

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "float16", "bfloat16"]
# In which precision the layers of a transformer are held between two uses, by torch's name.
StorageDtype = Literal["float8_e4m3fn"]
Offload = Literal["none", "model", "group", "sequential"]
# The best kernel of torch's scaled dot product attention that may be used; auto lets torch choose.
Attention = Literal["auto", "flash", "efficient", "math"]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSpec(Message):
    """Which checkpoint to load, and from where on this host."""

    id: str
    name: str
    version: str
    kind: str
    folder: str
    checkpoint_sha256: str


class LoraParams(Message):
    """A LoRA as it was when the step was accepted, and how strongly it is added."""

    id: str
    name: str
    version: str
    checkpoint_sha256: str
    scale: float = Field(ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)


class OutputParams(Message):
    """How many pictures a step makes, and their files."""

    count: int = Field(default=1, ge=1, le=MAX_COUNT)
    format: Format = "png"
    embed_metadata: bool = True
    jpeg_quality: Quality = JPEG_QUALITY
    webp_quality: Quality | None = None  # None: lossless


class GenerateParams(OutputParams):
    """A `generate` step with every default filled in. Sizes are pixels."""

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str | None = None
    seed: int | None = None
    # How far a step may leave its picture; None: it starts from none, or takes no such number.
    strength: float | None = Field(default=None, gt=0, le=1)
    loras: list[LoraParams] = Field(default=[], max_length=MAX_LORAS)


class EnlargeParams(OutputParams):
    """What every `upscale` step has: each side times `scale`."""

    scale: Literal[2, 4]


class ResampleParams(EnlargeParams):
    """Only resampled: nothing is invented."""

    impl: Literal["resample"] = "resample"


class GanParams(EnlargeParams):
    """By a network that knows one scale; resampled where the request has another.

    A `native_scale` of 1 restores a picture, and resampling enlarges it.
    """

    impl: Literal["gan"] = "gan"
    native_scale: int = Field(ge=1, le=8)


class DiffusionParams(EnlargeParams):
    """By a diffusion pipeline, which draws the prompt again."""

    impl: Literal["diffusion"] = "diffusion"
    native_scale: int = Field(ge=2, le=8)
    prompt: str
    negative_prompt: str = ""
    steps: int
    guidance: float


UpscaleParams = Annotated[ResampleParams | GanParams | DiffusionParams, Field(discriminator="impl")]


class ImageSpec(Message):
    """One picture and its file. Sizes are pixels."""

    item_index: ItemIndex
    format: Format
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    seed: int = Field(ge=0, lt=MAX_SEED)
    sha256: Sha256


class InputSpec(ImageSpec):
    """A picture of the step before, as its row has it; the enlarged one keeps its `seed`."""


class SourceSpec(Message):
    """A picture that a `generate` step starts from. `item_index` is its place among them.

    `width` and `height` are pixels with the orientation applied, EXIF's, which the file has not.
    """

    item_index: ItemIndex
    role: InputRole
    id: str
    format: Format
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    orientation: int = Field(default=1, ge=1, le=8)
    sha256: Sha256


class PresetSpec(Message):
    """The part of a preset that a runner acts on."""

    name: str
    version: int
    device: Device
    dtype: Dtype
    storage_dtype: StorageDtype | None = None  # None: all weights are held in `dtype`
    threads: int = Field(ge=1)
    offload: Offload = "none"
    attention: Attention = "auto"
    vae_tiling: bool = False


class StepSpec(Message):
    """Everything that a runner needs to know, and nothing else: no credential, no address."""

    job_id: str
    step_id: str
    step_name: str
    preset: PresetSpec
    done_items: list[int] = []  # items that an earlier attempt has stored already


class GenerateSpec(StepSpec):
    type: Literal["generate"] = "generate"
    model: ModelSpec
    params: GenerateParams
    inputs: list[SourceSpec] = Field(default=[], max_length=MAX_REFERENCES)
    lora_folders: list[str] = []  # on this host, one for each of `params.loras`

    @property
    def folders(self) -> list[str]:
        """Every folder that the runner must read."""
        return [self.model.folder, *self.lora_folders]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.lora_folders) != len(self.params.loras):
            raise ValueError("lora_folders: not one for each LoRA")
        if [each.item_index for each in self.inputs] != list(range(len(self.inputs))):
            raise ValueError("inputs: not in their order")
        roles = [each.role for each in self.inputs]
        masked = (["image", "mask"], ["image", "alpha_mask"])
        if roles not in ([], ["image"], *masked, ["reference"] * len(roles)):
            raise ValueError("inputs: an image, an image and its mask, or references alone")
        return self


class UpscaleSpec(StepSpec):
    """Enlarges the pictures of the step before it. `inputs` has one for each item."""

    type: Literal["upscale"] = "upscale"
    model: ModelSpec | None = None  # resampling needs none
    params: UpscaleParams
    inputs: list[InputSpec] = Field(max_length=MAX_COUNT)

    @property
    def folders(self) -> list[str]:
        """Every folder that the runner must read."""
        return [] if self.model is None else [self.model.folder]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.model is None) != isinstance(self.params, ResampleParams):
            raise ValueError("model: resampling needs none, every other way needs one")
        if [each.item_index for each in self.inputs] != list(range(self.params.count)):
            raise ValueError(f"inputs: not those of items 0 to {self.params.count - 1}")
        return self


RunSpec = Annotated[GenerateSpec | UpscaleSpec, Field(discriminator="type")]


# Worker to runner -------------------------------------------------------------------------------


class Go(Message):
    type: Literal["go"] = "go"
    spec: RunSpec
    # When the lease timer fires unless a lease pushes it back: a moment of CLOCK_BOOTTIME, which is
    # the same in every process of this host. A span would count from its receipt.
    dies_at: float


class Lease(Message):
    type: Literal["lease"] = "lease"
    dies_at: float


class Cancel(Message):
    type: Literal["cancel"] = "cancel"


class Show(Message):
    """Asks for one preview of what is being sampled. No answer comes where none can be made."""

    type: Literal["show"] = "show"


class Input(Message):
    """The answer to `want`; the frame's body is the picture's file, byte for byte as stored."""

    type: Literal["input"] = "input"
    item_index: ItemIndex
    sha256: Sha256


# Runner to worker -------------------------------------------------------------------------------

Stage = Literal["load", "sampling", "decode"]


class Ready(Message):
    type: Literal["ready"] = "ready"
    interface: int  # the worker talks to no runner of another `INTERFACE`
    pid: int
    versions: dict[str, str]


class Progress(Message):
    """`step` of `steps` in `stage` of item `item_index`; the model's load has no item."""

    type: Literal["progress"] = "progress"
    stage: Stage
    item_index: ItemIndex | None = None
    step: int = Field(ge=0, lt=2**31)
    steps: int = Field(ge=1, lt=2**31)


class Log(Message):
    type: Literal["log"] = "log"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    code: str = Field(max_length=64)
    message: str = Field(max_length=4096)
    item_index: ItemIndex | None = None
    payload: dict[str, Any] | None = None


class Want(Message):
    """Asks for the input of one item; the next request comes after the answer."""

    type: Literal["want"] = "want"
    item_index: ItemIndex


class Preview(Message):
    """The answer to `show`; the frame's body is a JPEG of at most `MAX_PREVIEW_BYTES`."""

    type: Literal["preview"] = "preview"
    item_index: ItemIndex
    step: int = Field(ge=0, lt=2**31)
    steps: int = Field(ge=1, lt=2**31)
    width: int = Field(ge=1, le=MAX_PREVIEW_SIDE)
    height: int = Field(ge=1, le=MAX_PREVIEW_SIDE)


class Artifact(ImageSpec):
    """One finished image; the frame's body is the encoded file."""

    type: Literal["artifact"] = "artifact"


class Result(Message):
    """All items are sent and memory is released; `allocator` holds torch's own figures, bytes."""

    type: Literal["result"] = "result"
    items: int = Field(ge=0, le=MAX_COUNT)
    allocator: dict[str, Bytes] = Field(default_factory=dict)


class Failure(Message):
    """Why the runner gives up, as it sees it. The worker classifies; this only informs."""

    type: Literal["failure"] = "failure"
    reason: Literal["oom", "host_oom", "model_unavailable", "provider_error", "cancelled"]
    message: str = Field(max_length=4096)
    details: dict[str, Any] = Field(default_factory=dict)


FromRunner = Ready | Progress | Log | Want | Preview | Artifact | Result | Failure
ToRunner = Go | Lease | Cancel | Show | Input

_from_runner: TypeAdapter[FromRunner] = TypeAdapter(
    Annotated[FromRunner, Field(discriminator="type")]
)
_to_runner: TypeAdapter[ToRunner] = TypeAdapter(Annotated[ToRunner, Field(discriminator="type")])


def parse_from_runner(header: dict[str, Any]) -> FromRunner:
    """Validate a runner's header; raise `FrameError` naming what is wrong, without its values."""
    return validated(_from_runner, header)


def parse_to_runner(header: dict[str, Any]) -> ToRunner:
    """Validate a worker's header, in the runner."""
    return validated(_to_runner, header)


def validated(adapter: TypeAdapter[_T], header: dict[str, Any]) -> _T:
    """The message of a header; raise `FrameError` naming what is wrong, without its values."""
    try:
        return adapter.validate_python(header)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)[:3]
        )
        raise FrameError(f"not a message of this protocol: {problems}") from None
