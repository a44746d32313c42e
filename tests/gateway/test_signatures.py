"""Signed requests: Backend.AI's signature as its own client makes it, and ours that counts once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace
from email.utils import formatdate
from http.client import HTTPConnection

import httpx
import pytest
from fastapi import WebSocket
from sqlalchemy import text

from api import permissions
from api.main import build
from moorage import signing
from moorage.db import nonces
from moorage.domain.errors import InvalidRequest
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.command import served
from tests.support.gateway import JWT_KEYS, WISH, Gateway, access_key_of, basic, refused
from tests.support.signed import VERSION, as_backendai, as_moorage, keys_of, now, opened

DATE = "2026-01-02T03:04:05.123456+00:00"
ASKED = signing.Asked("GET", "/session/my-sess/logs", DATE, "127.0.0.1:8091", "text/plain", VERSION)
NONCE = "n" * 16

# Made with the signer of Backend.AI's own client.
VECTORS = [
    (ASKED, "99211ffcf61a46622426fdd3b77a095bc6e56f92c56368a62f8b5b93f9893ff2"),
    (
        replace(ASKED, method="POST", target="/session/my-sess/rename?name=new-name"),
        "dba1fba79528971b935a0535780c230bae12dba3ee33dd0e615450e091be5505",
    ),
    (
        replace(ASKED, method="POST", target="/session", date=DATE[:19] + DATE[26:], content_type="application/json"),
        "8b38e068cc7318e2e0c4340ca6898565dddaf87c5bc82211f7bd72f54fc14b79",
    ),
    (
        replace(ASKED, target="/stream/session/my-sess/execute", content_type=""),
        "d6d37fb9d11262840bf53cb889a5ae30029eb77479126e9f94269feb2bfe5c0b",
    ),
    (
        replace(ASKED, method="POST", target="/session/my-sess/upload", content_type="multipart/form-data; boundary=x"),
        "728cfa8056447ec13951e9534d153f6ae3c579ac8481d36ea607afc5cb2640ad",
    ),
]  # fmt: skip


def claim(digest: str, words: str = "BackendAI signMethod=HMAC-SHA256, credential=AKIAEXAMPLE:{}") -> signing.Signature:
    return signing.read(words.format(digest))


# ---- the signature alone


@pytest.mark.parametrize(("asked", "digest"), VECTORS)
def test_the_signatures_of_backend_ais_client_are_ours(asked: signing.Asked, digest: str) -> None:
    assert f":{digest}" in signing.sign_as_backendai(asked, "AKIAEXAMPLE", "example-secret")["Authorization"]
    assert signing.is_right(claim(digest), asked, b"example-secret")


@pytest.mark.parametrize(
    "words",
    [
        "Sorna signMethod=HMAC-SHA256, credential=AKIAEXAMPLE:{}",
        "backendai signMethod=HMAC-SHA256,credential=AKIAEXAMPLE:{}",
        "BackendAI credential=AKIAEXAMPLE:{}, signMethod=HMAC-sha256",
    ],
)
def test_the_scheme_has_an_old_name_and_its_parameters_no_order(words: str) -> None:
    asked, digest = VECTORS[0]
    assert signing.is_right(claim(digest, words), asked, b"example-secret")


@pytest.mark.parametrize("name", sorted(hashlib.algorithms_guaranteed))
def test_every_guaranteed_hash_with_a_length_of_its_own_signs(name: str) -> None:
    if name.startswith("shake"):
        with pytest.raises(InvalidRequest, match="signMethod"):
            signing.read(f"BackendAI signMethod=HMAC-{name}, credential=a:b")
        return
    headers = signing.sign_as_backendai(ASKED, "a", "secret", hash_name=name)
    assert signing.is_right(signing.read(headers["Authorization"]), ASKED, b"secret")
    assert not signing.is_right(signing.read(headers["Authorization"]), ASKED, b"other")


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, method="DELETE"),
        replace(ASKED, target="/session/my-sess/logs?follow=true"),
        replace(ASKED, target="/session/my%2Dsess/logs"),
        replace(ASKED, date="2026-01-02T03:04:06+00:00"),
        replace(ASKED, host="127.0.0.1"),
        replace(ASKED, host="evil.example.org"),
        replace(ASKED, content_type="application/json"),
        replace(ASKED, version="v8.20240915"),
    ],
)
def test_whatever_is_covered_can_not_be_changed(other: signing.Asked) -> None:
    assert not signing.is_right(claim(VECTORS[0][1]), other, b"example-secret")
    strict = signing.read(signing.sign(ASKED, "a", "s")["Authorization"])
    is_covered = replace(other, version=ASKED.version) != ASKED
    assert signing.is_right(strict, other, b"s") != is_covered


@pytest.mark.parametrize(
    ("signed", "sent"), [("h:80", "h"), ("h:443", "h"), ("h", "h:80"), ("h", "h:443"), ("[::1]:80", "[::1]")]
)
def test_a_default_port_may_be_signed_or_sent_or_neither(signed: str, sent: str) -> None:
    headers = signing.sign_as_backendai(replace(ASKED, host=signed), "a", "s")
    assert signing.is_right(signing.read(headers["Authorization"]), replace(ASKED, host=sent), b"s")
    assert not signing.is_right(signing.read(headers["Authorization"]), replace(ASKED, host="h:8080"), b"s")


def test_the_stricter_signature_covers_the_body_and_the_nonce() -> None:
    made = signing.read(signing.sign(ASKED, "a", "s", body=b"{}", nonce=NONCE)["Authorization"])
    assert signing.is_right(made, ASKED, b"s", body=b"{}")
    assert not signing.is_right(made, ASKED, b"s", body=b"{} ")
    assert not signing.is_right(replace(made, nonce="m" * 16), ASKED, b"s", body=b"{}")
    assert not signing.is_right(replace(made, scheme=signing.Scheme.BACKENDAI), ASKED, b"s", body=b"{}")


def test_two_signatures_of_the_same_request_have_different_nonces() -> None:
    assert signing.sign(ASKED, "a", "s") != signing.sign(ASKED, "a", "s")


@pytest.mark.parametrize("off_s", [0, 899, -899])
def test_a_date_within_a_quarter_of_an_hour_counts(off_s: int) -> None:
    signing.check_date("2026-01-02T03:04:05Z", signing.moment("2026-01-02T03:04:05Z").timestamp() + off_s)


@pytest.mark.parametrize("off_s", [900, -900, 86_400])
def test_a_date_further_off_does_not(off_s: int) -> None:
    with pytest.raises(InvalidRequest, match="less than 900 s") as refusal:
        signing.check_date("2026-01-02T03:04:05Z", signing.moment("2026-01-02T03:04:05Z").timestamp() + off_s)
    assert refusal.value.code == "invalid-auth-params"


@pytest.mark.parametrize(
    "date", ["2026-01-02T03:04:05", "2026-01-02T12:04:05+09:00", "Fri, 02 Jan 2026 03:04:05 GMT", "20260102T030405Z"]
)
def test_dates_are_iso_8601_or_rfc_7231(date: str) -> None:
    assert signing.moment(date) == signing.moment("2026-01-02T03:04:05+00:00")


@pytest.mark.parametrize("date", ["", "yesterday", "99999999999999", "0001-01-01T00:00:00+23:59", "Fri, 99 Jan 2026"])
def test_what_is_no_date_is_refused(date: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        signing.moment(date)
    assert refusal.value.code == "invalid-auth-params"


# ---- at the gateway


async def test_backend_ais_client_gets_in_with_text_plain_and_no_body(gateway: Gateway) -> None:
    target = "/session?limit=20&offset=0"
    answer = await gateway.http.get(target, headers=as_backendai(gateway.ada, target=target))
    assert answer.status_code == 200, answer.text


async def test_the_target_is_verified_as_it_was_sent(gateway: Gateway) -> None:
    await gateway.submitted(name="a-b.c")
    for target in ("/session/a%2Db.c", "/session/a-b.c?x=%7B%22--opt%22:+%22val%22%7D"):
        answer = await gateway.http.get(target, headers=as_backendai(gateway.ada, target=target))
        assert answer.status_code == 200, answer.text


async def test_a_real_server_hands_the_target_over_undecoded(gateway: Gateway, database_url: str) -> None:
    settings = Settings(database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32)
    target = "/session/a%20b%2Dc?arguments=%7B%22--opt%22:+%22val%22%7D,x"

    def ask(host: str) -> tuple[int, bytes]:
        connection = HTTPConnection(host)
        connection.request("GET", target, headers=as_backendai(gateway.ada, target=target, host=host))
        answer = connection.getresponse()
        return answer.status, answer.read()

    with served(build(settings, lives=gateway.lives)) as address:
        status, body = await asyncio.to_thread(ask, address.removeprefix("http://"))
    assert (status, b"object-not-found" in body) == (404, True), body


async def test_a_json_body_is_read_beside_the_signature(gateway: Gateway) -> None:
    headers = as_backendai(gateway.ada, "POST", content_type="application/json")
    answer = await gateway.http.post("/session", json=WISH, headers=headers)
    assert answer.status_code == 201
    assert (await gateway.get("/session", gateway.ada)).json()["total"] == 1


async def test_clocks_may_differ_by_a_quarter_of_an_hour(gateway: Gateway) -> None:
    for date in (now(-890), now(890), formatdate(time.time(), usegmt=True)):
        for sign in (as_backendai, as_moorage):
            assert (await gateway.http.get("/session", headers=sign(gateway.ada, date=date))).status_code == 200


async def test_clocks_that_differ_more_are_told_so(gateway: Gateway) -> None:
    for date in (now(-905), now(905)):
        for sign in (as_backendai, as_moorage):
            answer = await gateway.http.get("/session", headers=sign(gateway.ada, date=date))
            assert "clock" in refused(answer, 400, "invalid-auth-params")["title"]


async def test_the_date_may_stand_in_a_header_of_its_own(gateway: Gateway) -> None:
    headers = as_backendai(gateway.ada)
    headers["X-BackendAI-Date"] = headers.pop("Date")
    assert (await gateway.http.get("/session", headers=headers)).status_code == 200


async def test_a_signature_for_another_host_is_refused(gateway: Gateway) -> None:
    headers = as_backendai(gateway.ada, host="evil.example.org")
    refused(await gateway.http.get("/session", headers=headers), 401, "auth-failed")


async def test_a_signature_without_the_version_header_is_told_so(gateway: Gateway) -> None:
    headers = as_backendai(gateway.ada)
    del headers["X-BackendAI-Version"]
    problem = refused(await gateway.http.get("/session", headers=headers), 400, "invalid-auth-params")
    assert "X-BackendAI-Version" in problem["title"]


async def test_a_wrong_signature_and_an_unknown_key_get_the_same_answer(gateway: Gateway) -> None:
    strangers = (basic(access_key_of(gateway.ada), "wrong"), basic("AKIANOBODY", "wrong"))
    answers = [
        await gateway.http.get("/session", headers=make(who))
        for who in strangers
        for make in (as_backendai, as_moorage)
    ]
    assert len({answer.text for answer in answers}) == 1
    refused(answers[0], 401, "auth-failed")


async def test_a_wrong_signature_is_refused_beside_right_ones(gateway: Gateway) -> None:
    assert (await gateway.http.get("/session", headers=as_backendai(gateway.ada))).status_code == 200
    forged = as_backendai(gateway.ada, target="/session?limit=1")
    refused(await gateway.http.get("/session", headers=forged), 401, "auth-failed")


MALFORMED = [
    "BackendAI",
    "BackendAI credential=a:b",
    "BackendAI signMethod=HMAC-SHA256",
    "BackendAI signMethod=HMAC-SHA256, credential=a",
    "BackendAI signMethod=RSA-SHA256, credential=a:b",
    "BackendAI signMethod=HMAC-NONE, credential=a:b",
    "BackendAI signMethod=HMAC-SHA256, credential=a:b, credential=c:d",
    "Moorage signMethod=HMAC-SHA256, credential=a:b",
    "Moorage signMethod=HMAC-MD5, credential=a:b, nonce=0123456789abcdef",
    "Moorage signMethod=HMAC-SHA256, credential=a:b, nonce=short",
]


async def test_a_malformed_signature_is_told_so(gateway: Gateway) -> None:
    for words in MALFORMED:
        headers = {"Authorization": words, "Date": now(), "X-BackendAI-Version": VERSION}
        refused(await gateway.http.get("/session", headers=headers), 400, "invalid-auth-params")


async def test_headers_with_strange_characters_or_lengths_are_refused(gateway: Gateway) -> None:
    for value in (b"Basic \xff\xfe", b"Bearer a\tb", b"Basic " + b"x" * 9000):
        headers = httpx.Headers([(b"Authorization", value)])
        refused(await gateway.http.get("/session", headers=headers), 400, "invalid-auth-params")


async def test_a_header_that_comes_twice_is_refused(gateway: Gateway) -> None:
    for name, value in (("Authorization", gateway.bob["Authorization"]), ("Host", "other")):
        twice = httpx.Headers([*gateway.ada.items(), ("Host", "gateway"), (name, value)])
        refused(await gateway.http.get("/session", headers=twice), 400, "invalid-auth-params")


# ---- the stricter one counts once


async def test_a_signed_request_counts_once(gateway: Gateway) -> None:
    body = b'{"image": "python:3.12", "type": "batch", "command": ["true"]}'
    headers = as_moorage(gateway.ada, "POST", body=body, content_type="application/json")
    assert (await gateway.http.post("/session", content=body, headers=headers)).status_code == 201
    again = await gateway.http.post("/session", content=body, headers=headers)
    assert "came already" in refused(again, 401, "auth-failed")["title"]
    assert (await gateway.get("/session")).json()["total"] == 1


async def test_of_the_same_signed_request_at_two_replicas_one_counts(gateway: Gateway, replica: Gateway) -> None:
    headers = as_moorage(gateway.ada)
    answers = await asyncio.gather(
        *(http.get("/session", headers=headers) for http in (gateway.http, replica.http) * 4)
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_a_body_that_was_changed_is_refused_and_burns_no_nonce(gateway: Gateway) -> None:
    body = b'{"image": "python:3.12", "type": "batch", "command": ["true"]}'
    headers = as_moorage(gateway.ada, "POST", body=body, content_type="application/json")
    changed = body.replace(b"true", b"rm")
    refused(await gateway.http.post("/session", content=changed, headers=headers), 401, "auth-failed")
    assert (await gateway.http.post("/session", content=body, headers=headers)).status_code == 201


async def test_two_keys_may_use_the_same_nonce(gateway: Gateway) -> None:
    for who in (gateway.ada, gateway.bob):
        assert (await gateway.http.get("/session", headers=as_moorage(who, nonce=NONCE))).status_code == 200
    refused(await gateway.http.get("/session", headers=as_moorage(gateway.ada, nonce=NONCE)), 401, "auth-failed")


async def test_nonces_are_kept_as_long_as_their_requests_could_come_again(gateway: Gateway) -> None:
    for nonce in ("old", "young"):
        assert await nonces.take(gateway.engine, "k", nonce)
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE nonces SET seen_at = now() - interval '41 min' WHERE nonce = 'old'"))
        await connection.execute(text("UPDATE nonces SET seen_at = now() - interval '31 min' WHERE nonce = 'young'"))
    assert await nonces.forget_old(gateway.engine) == 1
    assert not await nonces.take(gateway.engine, "k", "young")
    assert await nonces.take(gateway.engine, "k", "old")


# ---- WebSocket


async def test_a_websocket_passes_the_same_gate(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(permissions.ROUTES, "WEBSOCKET /stream", "session:read")

    @gateway.app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.who.email)
        await socket.close()

    host = {"Host": "gateway"}
    for headers in (gateway.ada, as_backendai(gateway.ada, target="/stream", content_type="")):
        sent = await opened(gateway.app, "/stream", headers | host)
        assert [one.get("text") for one in sent if one["type"] == "websocket.send"] == ["ada@example.org"]
    forged = as_backendai(basic(keys_of(gateway.ada)[0], "wrong"), target="/stream", content_type="")
    for headers in ({}, forged):
        sent = await opened(gateway.app, "/stream", headers | host)
        assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 401)
