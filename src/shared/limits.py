"""The bounds of every request, whatever its model allows."""

MIN_SIDE, MAX_SIDE = 16, 4096  # pixels; the API's own bounds
# The most that a preset may allow for a picture. A PNG has three bytes a pixel at worst, and a file
# has to fit into the body of a frame (64 MiB).
MAX_PICTURE_PIXELS = 20_000_000
# Of a picture that a job starts from. A runner decodes it whole: up to four bytes a pixel.
MAX_INPUT_PIXELS = 64_000_000
MAX_REFERENCES = 8  # pictures that an edit model gets
MAX_LORAS = 8  # of a job
MAX_LORA_SCALE = 4.0
MAX_STEPS = 200
MAX_GUIDANCE = 50.0
MAX_COUNT = 100
MAX_BODY_BYTES = 1 << 20  # of a request; the largest valid one is far smaller
MAX_PROMPT = 4096  # characters
MAX_SEED = 2**53
