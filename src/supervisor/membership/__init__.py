"""This worker's row among all workers, and the models that it can run."""
