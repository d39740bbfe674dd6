"""Secrets and networks of webhooks as settings, and signatures that other libraries accept."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError
from tests.support.api_harness import settings_of
from tests.support.node import run_node

from shared.settings import Settings
from shared.webhooks import parse_networks, parse_secrets, sign


def secret(letter: str, size: int = 32) -> str:
    return f"whsec_{base64.b64encode(letter.encode() * size).decode()}"


A, B, C = map(secret, "abc")
BASE = {
    "DF_DATABASE_URL": "postgresql://u:p@127.0.0.1/d",
    "DF_REDIS_URL": "redis://127.0.0.1/0",
    "DF_S3_ENDPOINT": "http://127.0.0.1:1",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}


def settings(**changes: str) -> Settings:
    return settings_of(BASE, **changes)


def test_a_message_is_accepted_with_either_of_two_secrets_and_with_no_other() -> None:
    body, now = b'{"type":"job.end","data":"\xc3\xa9"}', int(time.time())
    keys = [each.key for each in parse_secrets(f"shop:{A},shop:{B}")]
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(keys, "msg_1", now, body),
    }
    for known in (A, B):
        assert Webhook(known).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(C).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(A).verify(body + b" ", headers)


# As the specification says it, without its library: what any language's standard library can do.
_NODE = """
const { createHmac } = require("crypto");
const { id, at, header, body, secret } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const key = Buffer.from(secret.slice("whsec_".length), "base64");
const digest = createHmac("sha256", key).update(`${id}.${at}.${body}`).digest("base64");
console.log(header.split(" ").includes(`v1,${digest}`));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
def test_a_receiver_in_javascript_computes_the_same_signature() -> None:
    keys = [each.key for each in parse_secrets(f"shop:{A},shop:{B}")]
    message = {"id": "msg_1", "at": 1769860809, "body": '{"note":"é 🍎"}'}
    header = sign(keys, "msg_1", 1769860809, str(message["body"]).encode())
    for known, accepted in ((A, "true"), (B, "true"), (C, "false")):
        given = json.dumps(message | {"header": header, "secret": known})
        done = subprocess.run(
            ["node", "-e", _NODE], input=given, capture_output=True, encoding="utf-8", check=True
        )
        assert done.stdout.strip() == accepted


def test_the_library_in_javascript_accepts_what_we_sign() -> None:
    body, now = '{"type":"job.end","note":"é 🍎"}', int(time.time())
    keys = [each.key for each in parse_secrets(f"shop:{A},shop:{B}")]
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(keys, "msg_1", now, body.encode()),
    }
    message = {"body": body, "headers": headers}
    calls = [message | {"secret": known} for known in (A, B, C)]
    calls.append(message | {"secret": A, "body": f"{body} "})
    calls.append(message | {"secret": A, "headers": headers | {"webhook-timestamp": "1"}})
    *accepted, unknown, changed, old = run_node("webhook.cjs", calls)
    assert accepted == [json.loads(body)] * 2
    assert unknown["refused"] == changed["refused"] == "No matching signature found"
    assert old["refused"] == "Message timestamp too old"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("whsec_x", "entry 1 must be name:whsec_"),
        (f"Shop:{A}", "entry 1 must be name:whsec_"),
        (f"shop:{A},web:{A.removeprefix('whsec_')}", "entry 2: after the name"),
        ("shop:whsec_###", "must be base64"),
        (f"shop:{secret('a', 23)}", "24 to 64 bytes, this one 23"),
        (f"shop:{secret('a', 65)}", "24 to 64 bytes, this one 65"),
        (f"shop:{A},shop:{B},shop:{C}", "entry 3 is the third secret"),
    ],
)
def test_a_wrong_secret_is_said_without_it(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_secrets(text)
    assert A.removeprefix("whsec_") not in str(caught.value)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "localhost", "10.0.0.0/33", "*"])
def test_a_wrong_network_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        parse_networks(text)


def test_settings_have_the_secrets_of_known_keys_and_show_none() -> None:
    key = f"shop:{'0' * 64}"
    known = settings(api_keys=key, webhook_secrets=f"shop:{A},shop:{B}")
    assert len(known.webhook_keys_of("shop")) == 2
    assert known.webhook_keys_of("web") == []
    assert "aaaa" not in repr(known)
    assert len(settings(webhook_secrets=f"default:{A}").webhook_keys_of("default")) == 1
    with pytest.raises(ValidationError, match=r"DF_WEBHOOK_SECRETS: 'web' is the name of no key"):
        settings(api_keys=key, webhook_secrets=f"web:{A}")
