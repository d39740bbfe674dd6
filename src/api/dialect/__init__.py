"""OpenAI's image routes over our jobs: their requests, answers, events and errors."""
