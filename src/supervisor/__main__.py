"""`python -m supervisor`: a worker.

Import-light on purpose. `multiprocessing` spawn imports this module again in every runner (as
`__mp_main__`), and a runner must not carry Celery, SQLAlchemy or psycopg.
"""

if __name__ == "__main__":
    import logging

    from shared.linux.child import exit_now
    from supervisor.worker import main

    code = main()
    logging.shutdown()  # a line may wait for the reader of the log
    # Not by the interpreter's own end: multiprocessing would first wait there for every child, and
    # one that hangs in the driver, given up long before, does not die.
    exit_now(code)
