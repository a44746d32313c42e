"""Proof that somebody is the user he says: password and one-time code, and changing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyotp
from pyotp.exceptions import OTPVerificationError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.lockout import Lockout
from api.auth.tokens import Clock
from moorage import passwords as hashes
from moorage.db import attempts, audit, logins, passwords, principals
from moorage.db.attempts import Attempt
from moorage.domain.errors import Conflict, Forbidden, Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

_DAY_S = 86400
_WRONG = "e-mail or password is wrong"


@dataclass(frozen=True, slots=True)
class Proven:
    """A user that is who he says. `new_hash` where the stored one is out of date."""

    who: Principal
    password_hash: str
    new_hash: str


class Proof:
    def __init__(
        self,
        engine: AsyncEngine,
        seal: Seal,
        lockout: Lockout,
        *,
        max_age_days: int,
        clock: Clock,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """`forget` is called when log-ins have ended, for whoever remembers that they go on."""
        self._engine = engine
        self._seal = seal
        self._lockout = lockout
        self._max_age_s = max_age_days * _DAY_S
        self._clock = clock
        self._forget = forget

    async def of_user(self, email: str, password: str, otp: str, *, even_expired: bool = False) -> Proven:
        """Unauthenticated in the same words and time whatever was wrong and whoever exists."""
        email = email.strip().lower()
        attempt = await self._lockout.begin(email)
        found = await principals.by_email(self._engine, email)
        stored: str | None = found[1]["password_hash"] if found else None
        if not await hashes.is_right(stored, password) or found is None or stored is None:
            await self._denied(email, "wrong password", attempt.user_id, found and found[0])
            raise Unauthenticated(_WRONG)
        who, row = found
        if not even_expired and self._is_due(row):
            await self._lockout.undo(attempt)
            await self._denied(email, "password expired", who.user_id, who)
            raise _expired()
        await self._check_code(who, row, otp, attempt)
        return Proven(who, stored, await hashes.hashed(password) if hashes.is_outdated(stored) else "")

    async def change_expired(self, email: str, old: str, new: str, otp: str) -> None:
        """A new password of somebody who can't log in before."""
        hashes.check_new(new, email=email, old=old)
        await self._change(await self.of_user(email, old, otp, even_expired=True), new)

    async def change_own(self, who: Principal, old: str, new: str, *, login_id: str) -> None:
        """A new password; every other log-in ends."""
        hashes.check_new(new, email=who.email, old=old)
        await self._change(await self._of_oneself(who, old), new, login_id=login_id)

    async def start_codes(self, who: Principal) -> dict[str, str]:
        """A secret for the user's app, not in force before a code of it was shown."""
        secret = pyotp.random_base32()
        async with self._engine.begin() as connection:
            if not await passwords.start_totp(connection, who.user_id, self._seal.seal(secret.encode())):
                raise Conflict("one-time codes are on already", code="totp-on", hint="DELETE /auth/totp ends them")
            await audit.write(connection, who, "auth:totp-start", who.user_id)
        uri = pyotp.TOTP(secret).provisioning_uri(name=who.email, issuer_name="Moorage")
        return {"secret": secret, "uri": uri}

    async def confirm_codes(self, who: Principal, otp: str) -> None:
        """From now on a log-in needs a code."""
        row = await self._row(who)
        if row["totp_enabled_at"] is not None or row["totp_secret"] is None:
            raise Conflict("no secret waits to be confirmed", code="totp-not-started", hint="POST /auth/totp begins")
        step = self._step_of(row["totp_secret"], otp)
        if step is None:
            raise Unauthenticated("the one-time code is wrong", code="otp-wrong", hint="is the clock right?")
        async with self._engine.begin() as connection:
            confirmed = await passwords.confirm_totp(
                connection, who.user_id, sealed=row["totp_secret"], step=step, now=self._clock()
            )
            if not confirmed:
                raise Conflict("another secret was begun meanwhile", code="totp-not-started")
            await audit.write(connection, who, "auth:totp-on", who.user_id)

    async def end_codes(self, who: Principal, otp: str) -> None:
        """A code is needed for this last time. Guesses count as those of a password."""
        row = await self._row(who)
        if row["totp_enabled_at"] is None:
            raise Conflict("one-time codes are not on", code="totp-off")
        await self._check_code(who, row, otp, await self._lockout.begin(who.email))
        async with self._engine.begin() as connection:
            await attempts.clear(connection, who.user_id)
            await passwords.remove_totp(connection, who.user_id)
            await audit.write(connection, who, "auth:totp-off", who.user_id)

    async def _of_oneself(self, who: Principal, password: str) -> Proven:
        await self._lockout.begin(who.email)
        stored: str | None = (await self._row(who))["password_hash"]
        if not await hashes.is_right(stored, password) or stored is None:
            await self._denied(who.email, "wrong password", who.user_id, who, operation="auth:password")
            raise Unauthenticated("the old password is wrong")
        return Proven(who, stored, "")

    async def _change(self, proven: Proven, new: str, *, login_id: str = "") -> None:
        who = proven.who
        new_hash, now = await hashes.hashed(new), self._clock()
        async with self._engine.begin() as connection:
            changed = await passwords.change(
                connection, who.user_id, old_hash=proven.password_hash, new_hash=new_hash, now=now
            )
            if not changed:
                raise Conflict("the password was changed meanwhile", code="password-changed")
            ended = await logins.revoke_all(connection, who.user_id, now=now, but=login_id)
            await audit.write(connection, who, "auth:password", who.user_id, after={"logins_ended": ended})
        self._forget()

    async def _check_code(self, who: Principal, row: Mapping[str, Any], otp: str, attempt: Attempt) -> None:
        """Passes whoever has no codes. A wrong one is as a wrong password, none at all is no failure."""
        if row["totp_enabled_at"] is None:
            return
        if not otp:
            await self._lockout.undo(attempt)
            raise Unauthenticated("a one-time code is needed", code="otp-required", hint="send it as `otp`")
        step = self._step_of(row["totp_secret"], otp)
        async with self._engine.begin() as connection:
            used = step is not None and await passwords.use_step(connection, who.user_id, step)
        if not used:
            await self._denied(who.email, "wrong code", who.user_id, who)
            raise Unauthenticated(_WRONG)

    def _step_of(self, sealed: bytes, otp: str) -> int | None:
        """The step that the code is of: this one, the one before or the next."""
        totp = pyotp.TOTP(self._seal.open(sealed).decode())
        try:
            return totp.verify_and_get_timecode(otp, for_time=int(self._clock()), valid_window=1)
        except OTPVerificationError:
            return None

    def _is_due(self, row: Mapping[str, Any]) -> bool:
        age_s = self._clock() - row["password_changed_at"].timestamp()
        return bool(row["need_password_change"]) or 0 < self._max_age_s < age_s

    async def _row(self, who: Principal) -> Mapping[str, Any]:
        found = await principals.by_id(self._engine, who.user_id)
        if found is None:
            raise Unauthenticated("log in again")
        return found[1]

    async def _denied(
        self, email: str, reason: str, user_id: str, who: Principal | None, *, operation: str = "auth:login"
    ) -> None:
        """What somebody typed as an e-mail address may be a password: only what looks like one is kept."""
        asked = user_id or (email if "@" in email else "")
        code = "password-expired" if reason == "password expired" else "auth-failed"
        async with self._engine.begin() as connection:
            await audit.write(
                connection, None, operation, asked, after={"reason": reason}, outcome="denied", code=code,
                domain=who.domain if who else "", user_id=user_id,
            )  # fmt: skip


def _expired() -> Forbidden:
    return Forbidden(
        "the password has to be changed before the next log-in",
        code="password-expired",
        hint="POST /auth/password-expired with e-mail, old and new",
    )
