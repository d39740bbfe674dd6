"""The page at `/`, in a real browser, with a real API and a worker that draws."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import png as png_
import pytest
from playwright.sync_api import Browser, Route, expect
from tests.support.api_and_worker import Scene, drawing
from tests.support.api_harness import Api, running_api, running_at, until
from tests.support.browser import Visitor, open_browser
from tests.support.infrastructure import Infrastructure

from shared.dispatch.dead_letters import DeadMessages, dead_message
from shared.models.descriptor import Capability
from shared.object_store import open_store

pytestmark = pytest.mark.timeout(600)

KEY = "a key of a test"
# Observed, because it leaves when its picture is there, which may be before the next look.
PREVIEW_IS_SEEN = """selector => new Promise((resolve, reject) => {
  const look = () => document.querySelector(selector)?.decode().then(resolve, reject);
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  look();
  setTimeout(reject, 120_000, "no preview is seen");
})"""


def png(side: int) -> bytes:
    file = io.BytesIO()
    png_.from_array([[200, 60, 20] * side] * side, "RGB").write(file)
    return file.getvalue()


def wait_ready(api: Api, key: str = "") -> None:
    """Its first connections take seconds on a busy machine; the page would show a failure. It asks
    for several things at once, and so does this."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def answers(_: int) -> bool:
        return api.client.get("/v1/models", headers=headers).is_success

    with ThreadPoolExecutor(4) as threads:
        until(lambda: all(threads.map(answers, range(4))), "it is ready", timeout_s=240)


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with drawing(stack, tmp_path_factory.mktemp("page")) as both:
        wait_ready(both.api)
        # The first job waits for the worker's imports, minutes where the machine is busy.
        wait_for(both, both.api.create(), "succeeded")
        yield both


@pytest.fixture(scope="module")
def browser(scene: Scene) -> Iterator[Browser]:  # its loop would be in the way of the scene's
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visitor(browser: Browser, scene: Scene) -> Iterator[Visitor]:
    """Who leaves without a complaint, and has asked no one but the API and the store."""
    visitor = Visitor(browser, scene.api.base)
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []
    assert visitor.origins <= {scene.api.base, scene.api.settings.s3_endpoint}


def apart(work: Callable[[], object]) -> None:
    """Run it in a thread of its own: Playwright's event loop has the one of the tests."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


def wait_for(scene: Scene, job: str, status: str) -> None:
    """Its end, which a busy machine may take long for; a cancel needs the memory back first."""
    until(lambda: scene.status(job) == status, f"job {job} {status}", timeout_s=240)


def hold_the_slot(scene: Scene) -> str:
    """A job that runs until it is cancelled: what is created after it waits."""
    job = scene.api.create(count=100, steps=200)
    until(lambda: scene.status(job) == "running", "it holds the slot", timeout_s=120)
    return job


def draw(visitor: Visitor, prompt: str = "a red apple", **fields: Any) -> None:
    page = visitor.page
    page.get_by_label("What to draw").fill(prompt)
    page.get_by_text("More", exact=True).click()
    for name, value in fields.items():
        page.locator(f"#field-{name}").fill(str(value))
    page.get_by_role("button", name="Draw", exact=True).click()


# The files ----------------------------------------------------------------------------------------


def test_the_page_forbids_code_and_hosts_that_are_not_its_own(scene: Scene) -> None:
    answer = scene.api.client.get("/")
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == f"'self' blob: {scene.api.settings.s3_endpoint}"
    assert not re.search(r"<style|\son\w+=|style=|<script(?! type=\"module\" src)", answer.text)


def test_a_browser_asks_for_a_file_once(scene: Scene) -> None:
    for name in ("/", "/page/app.js", "/page/page.css"):
        first = scene.api.client.get(name)
        again = scene.api.client.get(name, headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    for name in ("/page/nothing.js", "/page/index.html", "/page/..%2Fserve.py"):
        assert scene.api.client.get(name).status_code == 404


# Create, watch, look ------------------------------------------------------------------------------


def test_a_prompt_becomes_pictures_and_a_picture_the_next_request(visitor: Visitor) -> None:
    page = visitor.open()
    expect(page.get_by_label("What to draw")).to_be_visible()
    visitor.look("create")
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url.partition("?")[0]))
    draw(visitor, count=2, steps=2)
    expect(page.locator(".watch .tile")).to_have_count(2)
    expect(page.locator(".watch .chip")).to_have_text("succeeded")
    visitor.look("done")
    files = [url for url in loaded if url.endswith(".png")]
    assert len(files) == len(set(files)) == 2
    page.locator(".watch .tile").first.click()
    dialog = page.get_by_role("dialog")
    facts = dict(
        zip(
            dialog.locator("dt").all_inner_texts(),
            dialog.locator("dd").all_inner_texts(),
            strict=True,
        )
    )
    assert facts["Steps"] == "2"
    assert facts["Model"] == "tiny@1"
    dialog.get_by_role("button", name="Draw it again").click()
    expect(page.locator("#field-seed")).to_have_value(facts["Seed"])
    expect(page.get_by_label("What to draw")).to_have_value("a red apple")
    page.get_by_text("The same from your program").click()
    shown = page.get_by_label("The request for curl").inner_text()
    request = json.loads(shown.partition("-d '")[2].removesuffix("'"))
    assert request == {
        "type": "generate",
        "model_id": "tiny@1",
        "prompt": "a red apple",
        "seed": int(facts["Seed"]),
        "steps": 2,
    }


def test_a_running_job_is_cancelled(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, "many", count=100, steps=200)
    expect(page.locator(".watch .now")).to_contain_text("step")
    visitor.page.evaluate(PREVIEW_IS_SEEN, ".watch .preview")
    visitor.look("busy")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".watch .chip")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".watch")).to_contain_text("This job was deleted")


def test_a_failure_says_what_it_means_and_what_to_do(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, "in no time", timeout_s=0.01)
    failure = page.get_by_role("alert")
    expect(failure).to_contain_text("timeout")
    expect(failure).to_contain_text("longer than its timeout_s")
    expect(failure).to_contain_text("What to do: a larger timeout_s")
    visitor.look("failing")


def test_a_refusal_is_shown_at_its_field(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, count=101)
    field = page.locator("#field-count")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-count-problem")).to_contain_text("less than or equal to 100")
    visitor.complaints.clear()  # the browser logs every 422


def test_the_keyboard_alone_is_enough(visitor: Visitor) -> None:
    page = visitor.open()
    expect(page.get_by_label("What to draw")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("What to draw")).to_be_focused()
    page.keyboard.type("a lighthouse")
    page.keyboard.press("Control+Enter")
    tile = page.locator(".watch .tile")
    expect(page.locator(".watch .chip")).to_have_text("succeeded")  # now nothing moves any more
    for _ in range(40):
        if tile.evaluate("tile => tile === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(tile).to_be_focused()


def test_a_broken_stream_goes_on_after_its_last_event(visitor: Visitor, scene: Scene) -> None:
    job = scene.api.create(steps=2)
    resumed: list[str | None] = []

    def cut(route: Route) -> None:
        last = route.request.headers.get("last-event-id")
        resumed.append(last)
        if len(resumed) > 1:
            route.continue_()
            return
        event = {"ts": "2026-01-31T12:00:00Z", "level": "INFO", "code": "x", "message": "seen"}
        body = f"event: log\ndata: {json.dumps(event | {'payload': None})}\nid: 2\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    visitor.page.route("**/progress/stream", cut)
    page = visitor.open(f"jobs/{job}")
    expect(page.locator(".watch .chip")).to_have_text("succeeded")
    page.get_by_text("Log", exact=True).click()
    codes = page.locator(".log code").all_inner_texts()
    assert resumed[:2] == [None, "2"]
    assert codes[0] == "x"
    assert "job.created" not in codes  # it is the first
    assert codes.count("job.finish") == 1


def test_a_job_is_followed_on_after_the_api_was_restarted(
    browser: Browser, stack: Infrastructure, scene: Scene
) -> None:
    blocking = hold_the_slot(scene)
    with running_api(stack.environment) as first:
        wait_ready(first)
        port = int(first.base.rpartition(":")[2])
        visitor = Visitor(browser, first.base)
        page = visitor.open()
        draw(visitor, count=3)
        expect(page.locator(".log code").first).to_have_text("job.created")
    expect(page.locator(".watch .now")).to_have_text("The API does not answer. Trying again…")
    with running_at(port, stack.environment) as second:
        wait_ready(second)
        scene.api.client.post(f"/v1/jobs/{blocking}/cancel")
        expect(page.locator(".watch .chip")).to_have_text("succeeded")
        expect(page.locator(".watch .tile")).to_have_count(3)
        page.get_by_text("Log", exact=True).click()
        codes = page.locator(".log code").all_inner_texts()
        assert codes.count("artifact.written") == 3
        assert codes.count("job.created") == codes.count("job.finish") == 1
        visitor.context.close()
    # What a browser says of an API that is away, or that begins.
    assert all(
        re.search("ERR_CONNECTION|ERR_INCOMPLETE| 503 ", each) for each in visitor.complaints
    )


@pytest.mark.slow
def test_a_hundred_pictures_are_paged_by_the_cursor(visitor: Visitor, scene: Scene) -> None:
    scene.api.sql("DELETE FROM jobs")
    copies(scene, scene.api.create(count=1, steps=1), 99)
    page = visitor.open("pictures")
    tiles = page.locator(".gallery .tile")
    for shown in (24, 48, 72, 96):
        expect(tiles).to_have_count(shown)
        page.get_by_role("button", name="Older ones").click()
    expect(tiles).to_have_count(100)
    expect(page.locator(".foot")).to_contain_text("That is all there is.")
    jobs = page.locator(".gallery > li").evaluate_all("all => all.map(each => each.dataset.job)")
    assert len(set(jobs)) == 100
    tiles.last.scroll_into_view_if_needed()
    tiles.last.locator("img").evaluate("image => image.decode()")
    visitor.look("hundred")
    tiles.last.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("dt").first).to_be_visible()
    page.keyboard.press("ArrowRight")  # round to the newest one
    expect(dialog.locator("dd code").last).to_have_text(jobs[0])


def copies(scene: Scene, job: str, number: int) -> None:
    """Older jobs like this one, each with a picture of its own in the store."""
    api = scene.api
    wait_for(scene, job, "succeeded")
    (found,) = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    picture = httpx.get(found["url"]).content

    async def upload() -> None:
        store = open_store(api.settings)
        try:
            for n in range(number):
                await store.put(
                    f"{found['s3_key']}.{n + 1}",
                    picture,
                    content_type="image/png",
                    sha256=found["sha256"],
                )
        finally:
            store.close()

    apart(lambda: anyio.run(upload))
    ids = "'id', md5('{0}' || n)::uuid, 'job_id', md5('job' || n)::uuid"
    others = {
        "jobs": "'id', md5('job' || n)::uuid, 'created_at', r.created_at - n * interval '1 min'",
        "steps": ids.format("step"),
        "artifacts": ids.format("artifact")
        + ", 'step_id', md5('step' || n)::uuid, 's3_key', r.s3_key || '.' || n",
    }
    for table, changed in others.items():
        api.sql(
            f"INSERT INTO {table} "
            f"SELECT (jsonb_populate_record(r, jsonb_build_object({changed}))).* "
            f"FROM {table} AS r, generate_series(1, {number}) AS n "
            f"WHERE r.{'id' if table == 'jobs' else 'job_id'} = %s",
            job,
        )


def test_pictures_are_paged_filtered_and_deleted(visitor: Visitor, scene: Scene) -> None:
    scene.api.sql("DELETE FROM jobs")
    page = visitor.open("pictures")
    expect(page.locator(".empty")).to_contain_text("No pictures yet")
    visitor.look("empty")
    drawn = scene.api.create(prompt="number 0", tags={"n": "0"})
    wait_for(scene, drawn, "succeeded")
    blocking = hold_the_slot(scene)
    for n in range(1, 29):
        scene.api.create(prompt=f"number {n}", tags={"n": str(n % 2)})
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".gallery > li")).to_have_count(24)
    page.get_by_role("button", name="Older ones").click()
    expect(page.locator(".gallery > li")).to_have_count(30)
    page.get_by_label("Tag").fill("n=1")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".gallery > li")).to_have_count(14)
    visitor.look("filtered")
    page.get_by_label("Tag").fill("")
    page.get_by_label("Status").select_option("succeeded")
    tile = page.locator(".gallery .tile")
    expect(tile).to_have_count(1)
    tile.click()
    expect(page.locator("dialog dt").first).to_be_visible()
    visitor.look("picture")
    page.get_by_role("button", name="Delete").click()
    visitor.look("question")
    page.get_by_role("dialog").get_by_role("button", name="Delete").last.click()
    expect(tile).to_have_count(0)
    assert scene.api.client.get(f"/v1/jobs/{drawn}").status_code == 404
    for job in scene.api.client.get("/v1/jobs?limit=100").json()["jobs"]:
        scene.api.client.post(f"/v1/jobs/{job['id']}/cancel")
    wait_for(scene, blocking, "cancelled")


def read_input(scene: Scene, id: str) -> dict[str, Any]:
    found: dict[str, Any] = scene.api.client.get(f"/v1/inputs/{id}").json()["input"]
    return found


def test_a_picture_with_a_painted_mask_becomes_the_next_one(visitor: Visitor, scene: Scene) -> None:
    file = png(64)
    page = visitor.open()
    picture = {"name": "a.png", "mimeType": "image/png", "buffer": file}
    page.locator("#start-picture").set_input_files(picture)  # type: ignore[arg-type]
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator(".mask canvas")
    canvas.click()
    visitor.look("mask")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    expect(canvas).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    draw(visitor)
    expect(page.locator(".watch .tile")).to_have_count(1)
    job = page.locator(".watch a code").inner_text()
    request = scene.api.client.get(f"/v1/jobs/{job}").json()["request"]
    found = [read_input(scene, request[name]) for name in ("image", "mask")]
    assert [(each["width"], each["height"]) for each in found] == [(64, 64), (64, 64)]
    assert found[0]["sha256"] == hashlib.sha256(file).hexdigest() != found[1]["sha256"]
    page.locator(".watch .tile").click()
    page.get_by_role("dialog").get_by_role("button", name="Start from it").click()
    expect(page.locator(".start")).to_contain_text("A picture of yours")


def test_an_edit_model_takes_several_pictures_in_their_order(
    visitor: Visitor, scene: Scene
) -> None:
    both: tuple[Capability, ...] = ("generate", "edit")
    apart(lambda: scene.api.install(name="editor", capabilities=both, references=2))
    page = visitor.open()
    page.get_by_label("Model").select_option(label="editor 1 (on no live worker)")
    expect(page.get_by_text("Start from a picture")).to_have_count(0)
    files = [png(side) for side in (32, 64, 16)]
    for number, file in enumerate(files[:2]):
        picture = {"name": f"{number}.png", "mimeType": "image/png", "buffer": file}
        page.locator("#references").set_input_files(picture)  # type: ignore[arg-type]
    expect(page.locator(".references img")).to_have_count(2)
    expect(page.locator("#references")).to_have_count(0)  # it takes no more
    visitor.look("references")
    page.get_by_role("button", name="Remove picture 1").click()
    picture = {"name": "2.png", "mimeType": "image/png", "buffer": files[2]}
    page.locator("#references").set_input_files(picture)  # type: ignore[arg-type]
    with page.expect_request("**/v1/jobs") as sent:
        draw(visitor)
    request = json.loads(sent.value.post_data or "")
    found = [read_input(scene, each) for each in request["images"]]
    assert [each["width"] for each in found] == [64, 16]
    assert not {"image", "mask", "strength"} & set(request)
    expect(page.get_by_role("alert")).to_contain_text("model_unavailable")
    scene.api.sql("DELETE FROM models WHERE name = 'editor'")
    visitor.complaints.clear()  # the browser logs every 422


def test_loras_of_the_models_family_are_picked_with_their_strength(
    visitor: Visitor, scene: Scene
) -> None:
    listed = scene.api.client.get("/v1/models").json()
    (model,) = (each for each in listed["models"] if each["name"] == "tiny")
    fitting = model | {"kind": "lora", "family": "sd", "capabilities": []}
    listed["models"] = [
        model | {"capabilities": [*model["capabilities"], "lora"]},
        fitting | {"id": "a", "name": "paper-cut"},
        fitting | {"id": "b", "name": "ink"},
        fitting | {"id": "c", "name": "oil", "family": "sdxl"},
    ]
    visitor.page.route("**/v1/models", lambda route: route.fulfill(json=listed))
    page = visitor.open()
    pick = page.get_by_label("LoRAs")
    expect(pick.locator("option")).to_have_text(["add one", "paper-cut@1", "ink@1"])
    pick.select_option("ink@1")
    pick.select_option("paper-cut@1")
    expect(pick).to_be_disabled()
    page.get_by_label("Strength of paper-cut@1").fill("0.6")
    visitor.look("loras")
    page.get_by_role("button", name="Remove ink@1").click()
    expect(pick).to_be_focused()
    with page.expect_request("**/v1/jobs") as sent:
        draw(visitor)
    request = json.loads(sent.value.post_data or "")
    assert request["loras"] == [{"model_id": "paper-cut@1", "scale": 0.6}]
    refused = page.locator("#field-loras-problem:not([hidden])").or_(page.get_by_role("alert"))
    expect(refused).to_be_visible()
    visitor.complaints.clear()  # the browser logs every 422


def test_a_receiver_is_named_and_a_refusal_of_it_stands_at_its_field(
    visitor: Visitor, browser: Browser, scene: Scene, stack: Infrastructure
) -> None:
    page = visitor.open()
    draw(visitor, webhook="https://shop.example.org/hook")
    expect(page.locator("#field-webhook")).to_be_focused()
    expect(page.locator("#field-webhook-problem")).to_contain_text("DF_WEBHOOK_SECRETS")
    visitor.complaints.clear()  # the browser logs every 422
    secret = "default:whsec_" + base64.b64encode(b"a secret of a test, long enough").decode()
    allowed = {"webhook_secrets": secret, "webhook_private": "127.0.0.1/32"}
    with running_api(stack.environment, **allowed) as api:
        wait_ready(api)
        other = Visitor(browser, api.base)
        page = other.open()
        page.get_by_text("More", exact=True).click()
        page.locator("#field-webhook").fill("http://127.0.0.1:1/hook")
        page.get_by_label("start", exact=True).check()
        other.look("webhook")
        page.get_by_text("More", exact=True).click()
        draw(other)
        expect(page.locator(".watch .chip")).to_have_text("succeeded")
        job = page.locator(".watch a code").inner_text()
        request = api.client.get(f"/v1/jobs/{job}").json()["request"]
        assert request["webhook"] == {"url": "http://127.0.0.1:1/hook", "events": ["start", "end"]}
        page.get_by_label("What to draw").fill("something else")
        page.locator("#field-webhook").fill("")
        page.get_by_role("button", name="Draw again").click()
        expect(page.locator("#field-webhook")).to_have_value("http://127.0.0.1:1/hook")
        expect(page.get_by_label("What to draw")).to_have_value("a red apple")
        expect(page.locator(".watch .tile")).to_have_count(1)  # what was drawn is still there
        other.context.close()


# Operate ------------------------------------------------------------------------------------------


def test_operators_see_workers_what_waits_and_what_failed(visitor: Visitor, scene: Scene) -> None:
    failed = scene.api.create(timeout_s=0.01, prompt="in no time")
    page = visitor.open(f"jobs/{failed}")
    expect(page.locator(".watch .chip")).to_have_text("failed")
    runs = hold_the_slot(scene)
    waits = scene.api.create(priority="low")
    visitor.open("operate")
    expect(page.locator(".slots li")).to_have_count(1)
    expect(page.get_by_label("Queue")).to_contain_text("low")
    expect(page.locator(".panel.row").first).to_contain_text("timeout")
    for name in ("Pictures, last hour", "Wait for a slot", "Pictures, by day", "Running, by day"):
        expect(page.get_by_role("img", name=re.compile(name))).to_be_visible()
    visitor.look("operate")
    expect(page.locator(".slots a")).to_have_attribute("href", f"#/jobs/{runs}")
    for job in (waits, runs):
        scene.api.client.post(f"/v1/jobs/{job}/cancel")


def test_what_was_given_up_is_replayed(visitor: Visitor, scene: Scene) -> None:
    scene.api.sql("DELETE FROM jobs")
    job = scene.api.create()
    scene.api.client.post(f"/v1/jobs/{job}/cancel")
    wait_for(scene, job, "cancelled")
    last = {"code": "runner_crashed", "message": "the runner ended by signal 11"}
    error = {"code": "attempts_exhausted", "message": "given up", "details": {"last_error": last}}
    scene.api.sql(
        "UPDATE jobs SET status = 'failed', reason = 'attempts_exhausted', error = %s,"
        """ webhook = '{"url": "https://shop.example.org/", "events": ["end"]}' WHERE id = %s""",
        json.dumps(error),
        job,
    )
    scene.api.sql(
        'INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state, last_error,'
        " expires_at, ended_at) VALUES (%s, 1, 'default', 'shop.example.org', 'end', '{}', 'dead',"
        " 'it answered 500', now(), now())",
        job,
    )
    messages = DeadMessages(scene.api.settings.redis_url.get_secret_value())
    messages.add(dead_message(queue="default", reason="it is no JSON", body=b"{"))
    page = visitor.open("operate")
    dead = page.get_by_label("Dead letters")
    expect(dead.locator(".panel.row code")).to_have_text(["job", "webhook", "message"])
    visitor.look("dead-letters")
    dead.get_by_role("button", name="Replay the webhook").click()
    expect(dead.locator(".panel.row code")).to_have_text(["job", "message"])
    assert scene.api.sql("SELECT state FROM deliveries") == [("waiting",)]
    dead.get_by_role("button", name="Replay the job").click()
    dead.get_by_role("link", name="Replayed").click()
    expect(page.locator(".watch .chip")).to_have_text("succeeded")
    again = page.locator(".watch a code").inner_text()
    assert scene.api.sql("SELECT replay_of::text FROM jobs WHERE id = %s", again) == [(job,)]
    for each in messages.all():
        messages.drop(each.id)
    messages.close()


# Everybody ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("section", ["create", "pictures", "operate"])
def test_no_rule_of_accessibility_is_broken(
    browser: Browser, scene: Scene, section: str, scheme: str
) -> None:
    phone = {"width": 390, "height": 844}
    visitor = Visitor(browser, scene.api.base, color_scheme=scheme, viewport=phone)
    page = visitor.open(section)
    expect(page.locator("main h1")).to_have_count(1)
    visitor.look(f"{section}-{scheme}-phone")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= phone["width"], "it scrolls sideways"
    visitor.context.close()


def test_a_key_is_asked_for_once_and_stays_in_the_tab(
    browser: Browser, stack: Infrastructure, scene: Scene
) -> None:
    keys = f"ada:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with running_api(stack.environment, api_keys=keys, admin_keys="ada") as api:
        wait_ready(api, KEY)
        visitor = Visitor(browser, api.base)
        page = visitor.open()
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill("another one")
        dialog.get_by_label("Key").press("Enter")
        expect(dialog).to_contain_text("this API key is not known")
        visitor.look("key")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use this key").click()
        expect(page.get_by_label("What to draw")).to_be_visible()
        visitor.page.reload()
        expect(page.get_by_label("What to draw")).to_be_visible()
        draw(visitor)
        expect(page.locator(".watch .tile")).to_have_count(1)
        shown = page.get_by_label("The request for curl").text_content() or ""
        assert "$DF_API_KEY" in shown
        assert KEY not in shown
        other = visitor.context.new_page()
        other.goto(api.base)
        expect(other.get_by_role("dialog", name="API key")).to_be_visible()
        blocking = hold_the_slot(scene)  # of the user "default"
        visitor.open("operate")
        expect(page.locator(".slots li")).to_contain_text("another's job")
        expect(page.locator(".slots a")).to_have_count(0)
        scene.api.client.post(f"/v1/jobs/{blocking}/cancel")
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        visitor.context.close()


def test_below_a_path_of_a_proxy_nothing_leaves_it(visitor: Visitor) -> None:
    asked: list[str] = []

    def strip(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/forge/", "/")))

    visitor.page.route("**/*", strip)
    page = visitor.page
    page.goto(f"{visitor.base}/forge/")
    expect(page.get_by_label("What to draw")).to_be_visible()
    assert all(url.startswith(f"{visitor.base}/forge/") for url in asked)
    assert f"{visitor.base}/forge/v1/models" in asked
    page.unroute_all(behavior="wait")


def test_what_is_shown_stays_quiet_where_motion_is_not_wanted(
    browser: Browser, scene: Scene
) -> None:
    visitor = Visitor(browser, scene.api.base, reduced_motion="reduce")
    page = visitor.open()
    style = page.evaluate(
        "() => { const e = document.createElement('p'); e.className = 'skeleton';"
        " document.body.append(e); return getComputedStyle(e).animationName; }"
    )
    assert style == "none"
    visitor.context.close()
