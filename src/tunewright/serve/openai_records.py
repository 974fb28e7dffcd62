"""What OpenAI's clients send, as far as it means something here; everything else is refused by name."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tunewright.serve.records import WHOLE, Strict, TaskName, Text

Stop = Annotated[str, Field(min_length=1, max_length=200)]


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(Strict):
    """The row. Its task has the instruction: there is no other message than the user's one."""

    role: Literal["user"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=2)]
    """Two parts are the two texts of a pair."""
    name: str | None = None


class StreamOptions(Strict):
    """What a stream tells."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(Strict):
    """How a task that answers in text does so; one that classifies has no use for it."""

    model: TaskName
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**53), le=2**53), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096), WHOLE] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    user: str | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1)
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None


class EmbeddingRequest(Strict):
    """POST /v1/embeddings."""

    model: TaskName
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class PromptDetails(BaseModel):
    """Tokens of a prompt, told apart."""

    prefix_tokens: int
    """Virtual tokens of the task's soft prompt or prefix."""
    cached_tokens: int
    """Those of them that were computed before."""


class EmbeddingUsage(BaseModel):
    """Tokens of a request that writes nothing."""

    prompt_tokens: int
    total_tokens: int


class Usage(EmbeddingUsage):
    """Tokens of a request."""

    completion_tokens: int
    prompt_tokens_details: PromptDetails


class Model(BaseModel):
    """A task."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    version: int


class Models(BaseModel):
    """All tasks."""

    object: Literal["list"]
    data: list[Model]


class TopLogprob(BaseModel):
    """A token that could have stood there; for a task that classifies, a label."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatAnswer(BaseModel):
    """What was said."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer."""

    index: int
    message: ChatAnswer
    finish_reason: Literal["stop", "length"]
    logprobs: ChatLogprobs | None


class Answered(BaseModel):
    """What every answer has."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class Chat(Answered):
    """The answer to a chat request."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionLogprobs(BaseModel):
    """Log-probabilities of an answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """The answer to one prompt."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: CompletionLogprobs | None


class Completion(Answered):
    """The answer to a completion request."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Embedding(BaseModel):
    """Features of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """Features of all texts."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
