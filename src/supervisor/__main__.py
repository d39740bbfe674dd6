"""`python -m supervisor`: a worker.

Import-light on purpose. `multiprocessing` spawn imports this module again in every runner (as
`__mp_main__`), and a runner must not carry Celery, SQLAlchemy or psycopg.
"""

if __name__ == "__main__":
    from supervisor.worker import main

    raise SystemExit(main())
