"""Rows whose JSON or moments no release of ours has written: an answer leaves out what cannot be
read, and no row takes the others with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.api_harness import BODY, Api, running_api
from tests.support.odd_json import cases
from tests.support.odd_moments import MOMENTS, columns, setting

from shared.states import Reason, Status

LISTS = (
    *("/v1/jobs", "/v1/jobs?tag=a%3Db", "/v1/jobs?limit=1", "/v1/models", "/v1/workers"),
    *("/v1/dead-letters", "/v1/activity", "/v1/usage"),
)
KEYS = {"events": ("job_id", "seq"), "deliveries": ("job_id", "seq")}
HOOK = {"url": "http://127.0.0.1:9/", "events": ["end"]}
ERROR = {"code": "attempts_exhausted", "message": "x", "details": {"last_error": {"code": "oom"}}}


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    secret = "default:whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    with running_api(
        stack_environment, webhook_secrets=secret, webhook_private="127.0.0.1/32"
    ) as running:
        running.worker(running.install())
        running.sql("UPDATE workers SET heartbeat_at = now() + interval '1 day'")
        yield running


def failed_job(api: Api) -> str:
    job = api.create(webhook=HOOK, tags={"a": "b"})
    api.progress(job, 0.5, item_index=0, item_progress=0.5)
    api.finish(job, Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, ERROR)
    api.sql("UPDATE deliveries SET state = 'dead', next_at = NULL, ended_at = now()")
    return job


def addresses(*jobs: str) -> list[str]:
    ways = ("", "/artifacts", "/logs", "/progress")
    return [*LISTS, *(f"/v1/jobs/{job}{way}" for job in jobs for way in ways)]


@pytest.mark.parametrize("table", ["jobs", "steps", "events", "models", "workers", "deliveries"])
def test_no_answer_is_an_error_of_ours_and_a_repaired_row_is_read_again(
    api: Api, table: str
) -> None:
    waiting, failed = api.create(tags={"a": "b"}), failed_job(api)
    jobs = [waiting, failed]
    key = KEYS.get(table, ("id",))
    for _, column, value in cases(table):
        before = api.sql(f"SELECT {', '.join(key)}, {column}::text FROM {table}")
        touch = ", updated_at = clock_timestamp()" if table == "models" else ""
        api.sql(f"UPDATE {table} SET {column} = %s{touch}", value)
        answers = [api.client.get(address) for address in addresses(*jobs)]
        answers += [
            api.client.post("/v1/jobs", json=BODY),
            api.client.post(f"/v1/dead-letters/{failed}/replay"),
            api.client.post(f"/v1/jobs/{failed}/cancel"),
        ]
        assert [
            (str(answer.request.url), column, value)
            for answer in answers
            if answer.status_code >= 500
        ] == []
        api.sql("DELETE FROM jobs WHERE id <> ALL (%s::uuid[])", jobs)
        where = " AND ".join(f"{name} = %s" for name in key)
        for *names, old in before:
            api.sql(f"UPDATE {table} SET {column} = %s{touch} WHERE {where}", old, *names)
        api.create()
        api.sql("DELETE FROM jobs WHERE id <> ALL (%s::uuid[])", jobs)


@pytest.mark.parametrize("table", ["jobs", "steps", "events", "deliveries"])
def test_no_answer_is_an_error_of_ours_whatever_moments_the_rows_have(api: Api, table: str) -> None:
    jobs = [api.create(tags={"a": "b"}), failed_job(api)]
    api.sql("UPDATE steps SET claimed_at = created_at, attempt = 1 WHERE job_id = %s", jobs[1])
    running = api.create()
    api.lease(running)
    jobs.append(running)
    for _, column in columns(table):
        for moment in MOMENTS:
            api.sql(setting(table, column), moment)
            answers = [api.client.get(address) for address in addresses(*jobs)]
            answers += [
                api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "one"}),
                api.client.post(f"/v1/dead-letters/{jobs[1]}/replay"),
            ]
            assert [
                (str(answer.request.url), column, moment, answer.text)
                for answer in answers
                if answer.status_code >= 400
            ] == []
            api.sql("DELETE FROM jobs WHERE id <> ALL (%s::uuid[])", jobs)


@pytest.mark.parametrize("moment", MOMENTS)
def test_pages_of_jobs_end_and_have_each_sound_job_once(api: Api, moment: str) -> None:
    odd, sound = [api.create(), api.create(), api.create()], [api.create() for _ in range(3)]
    api.sql("UPDATE jobs SET created_at = %s WHERE id = ANY (%s::uuid[])", moment, odd)
    shown, cursor = [], None
    for _ in range(len(odd) + len(sound)):
        query = {"limit": "1"} | ({} if cursor is None else {"cursor": cursor})
        page = api.client.get("/v1/jobs", params=query).raise_for_status().json()
        shown += [job["id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert cursor is None
    assert [id for id in shown if id in sound] == list(reversed(sound))
    assert len(shown) == len(set(shown))


def test_a_picture_to_start_from_is_shown_whatever_its_moments(api: Api) -> None:
    api.sql(
        'INSERT INTO inputs (id, "user", format, width, height, orientation, size_bytes, sha256,'
        " s3_key) VALUES (gen_random_uuid(), 'default', 'png', 64, 64, 1, 1, 'x', 'x')"
    )
    ((id,),) = api.sql("SELECT id FROM inputs")
    for _, column in columns("inputs"):
        for moment in MOMENTS:
            api.sql(setting("inputs", column), moment)
            assert api.client.get(f"/v1/inputs/{id}").status_code == 200, (column, moment)


def test_a_model_that_is_disabled_takes_no_job_whatever_moments_the_others_have(api: Api) -> None:
    api.worker(api.install(name="other"))
    for _, column in columns("models"):
        for moment in MOMENTS:
            api.sql(f"UPDATE models SET {column} = %s WHERE name = 'other'", moment)
            assert api.client.get("/v1/models").status_code == 200
            for enabled, answer in ((True, 202), (False, 422)):
                api.sql(
                    "UPDATE models SET enabled = %s, updated_at = clock_timestamp() "
                    "WHERE name = 'tiny'",
                    enabled,
                )
                body = BODY | {"model_id": "tiny"}
                assert api.client.post("/v1/jobs", json=body).status_code == answer


def test_a_worker_whose_heartbeat_is_no_moment_hides_no_other(api: Api) -> None:
    for _, column in columns("workers"):
        for moment in MOMENTS:
            ghost = api.worker()
            api.sql(f"UPDATE workers SET {column} = %s WHERE id = %s", moment, ghost)
            answer = api.client.get("/v1/workers").raise_for_status()
            shown = {row["id"]: row for row in answer.json()["workers"]}
            if (column, moment) in {("heartbeat_at", each) for each in ("infinity", "-infinity")}:
                assert str(ghost) not in shown
            assert len(shown) in (1, 2)
            api.sql("DELETE FROM workers WHERE id = %s", ghost)


def test_a_job_whose_request_cannot_be_read_is_shown_without_it(api: Api) -> None:
    odd, sound = api.create(), api.create(seed=7)
    api.sql('UPDATE jobs SET request = \'[1]\', tags = \'{"a": 7, "b": "c"}\' WHERE id = %s', odd)
    api.sql("UPDATE steps SET params = '\"x\"' WHERE job_id = %s", odd)
    shown = api.client.get(f"/v1/jobs/{odd}").json()
    assert (shown["request"], shown["parameters"], shown["tags"]) == (None, None, {"b": "c"})
    listed = {job["id"] for job in api.client.get("/v1/jobs").json()["jobs"]}
    assert listed == {odd, sound}
    assert api.client.get(f"/v1/jobs/{sound}").json()["request"]["seed"] == 7


def test_a_dead_job_that_cannot_be_read_is_not_replayed_and_says_what_is_wrong(api: Api) -> None:
    failed = failed_job(api)
    odd: dict[str, Any] = {"params": '{"loras": [7]}', "inputs": '[{"id": "x"}]', "preset": "[]"}
    for column, value in odd.items():
        ((before,),) = api.sql(f"SELECT {column}::text FROM steps WHERE job_id = %s", failed)
        api.sql(f"UPDATE steps SET {column} = %s WHERE job_id = %s", value, failed)
        answer = api.client.post(f"/v1/dead-letters/{failed}/replay")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert f"its {column} cannot be read" in answer.json()["message"]
        api.sql(f"UPDATE steps SET {column} = %s WHERE job_id = %s", before, failed)
    assert api.client.post(f"/v1/dead-letters/{failed}/replay").status_code == 202


@pytest.mark.parametrize("column", ["descriptor", "parameters_schema", "capabilities"])
def test_a_model_that_cannot_be_read_is_refused_by_name_and_hides_no_other(
    api: Api, column: str
) -> None:
    other = api.install(name="other")
    api.worker(other)
    spoil = f"UPDATE models SET {column} = '7', updated_at = clock_timestamp() WHERE name = 'tiny'"
    api.sql(spoil)
    listed = {row["name"]: row for row in api.client.get("/v1/models").json()["models"]}
    assert (listed["tiny"]["capabilities"], listed["other"]["capabilities"]) == ([], ["generate"])
    answer = api.client.post("/v1/jobs", json=BODY | {"model_id": "tiny"})
    assert (answer.status_code, answer.json()["code"]) == (422, "model_unavailable")
    assert "import it again" in answer.json()["message"]
    assert api.create() != api.create(model_id="other")
