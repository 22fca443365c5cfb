"""`Budget`: a hard bound in dollars. What is spent and what may yet be spent never exceed it together, in any order of events.

A game is admitted with the most that its calls can cost, and its calls draw on that. An attempt sets its worst case aside before
it goes out, and is settled at what it cost; what a call leaves over pays for later retries, so that each call of an admitted
game fits. Owns dollars only: how many an attempt costs is `models.py`'s business, where they are kept for good the journal's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sparring.rollout.errors import BudgetError

UNITS = 10**12
"""Of a dollar. Amounts are kept as whole numbers of them: sums of floats would drift."""


@dataclass
class Account:
    """What an admitted game may still spend, in units: `planned` on first attempts, `surplus` is what earlier calls left over."""

    planned: int
    surplus: int = 0
    closed: bool = False


@dataclass(eq=False)
class Waiter:
    """Someone who waits for units; `granted` is set once they are reserved."""

    units: int
    what: str
    account: Account | None = None
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Budget:
    """The dollars of a whole run. At all times `spent + reserved <= limit`.

    Example:
        >>> budget = Budget(1.00, spent=journal.spent())
        >>> async with budget.admit("3/0/1", dollars=0.002):
        ...     hold = budget.open_hold("3/0/1", most=0.0004)
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        """`limit` None sets no bound; `spent` is what earlier processes paid."""
        self.limit = limit
        self._limit = math.inf if limit is None else math.floor(limit * UNITS)
        self._spent = _units(spent)
        self._reserved = 0
        self._accounts: dict[str, Account] = {}
        self._open_holds = 0
        self._calls: deque[Waiter] = deque()
        self._games: deque[Waiter] = deque()

    @property
    def spent(self) -> float:
        """US dollars."""
        return self._spent / UNITS

    @property
    def reserved(self) -> float:
        """US dollars that games and calls in flight may yet spend."""
        return self._reserved / UNITS

    @asynccontextmanager
    async def admit(self, game: str, dollars: float) -> AsyncIterator[None]:
        """Reserves what a game may cost at most for as long as it is played. Waits while others may still give enough back.

        Raises `BudgetError` where it cannot fit any more, whatever they give back.
        """
        if dollars <= 0 or self.limit is None:
            yield
            return
        assert game not in self._accounts, f"game {game} is admitted twice at once"
        units = _units(dollars)
        await self._reserve(Waiter(units, "a game"), self._games)
        account = self._accounts[game] = Account(units)
        try:
            yield
        finally:
            del self._accounts[game]
            account.closed = True
            self.give_back(account.planned + account.surplus)

    def open_hold(self, game: str, most: float) -> Hold:
        """For one call of a game (or of none), whose attempts cost at most `most` dollars each."""
        self._open_holds += 1
        return Hold(self, self._accounts.get(game), most)

    def close_hold(self, units: int) -> None:
        """A call has ended and gives so much back to all."""
        self._open_holds -= 1
        self.give_back(units)

    async def take(self, units: int, account: Account | None) -> None:
        """Reserves for a call, waiting while it may yet fit. Raises `BudgetError` where it cannot."""
        await self._reserve(Waiter(units, "a call", account), self._calls)

    def try_take(self, units: int) -> bool:
        """Reserves if that fits and no call waits."""
        fits = not self._calls and self._fits(units)
        self._reserved += units * fits
        return fits

    def give_back(self, units: int) -> None:
        """Ends a reservation."""
        self._reserved -= units
        assert self._reserved >= 0
        self._serve()

    def pay(self, units: int) -> None:
        """Turns what was reserved into what is spent."""
        self._spent += units
        self.give_back(units)

    def pay_freely(self, units: int) -> None:
        """Notes what was spent where nothing had to be reserved."""
        self._spent += units

    def _fits(self, units: int) -> bool:
        return self._spent + self._reserved + units <= self._limit

    async def _reserve(self, waiter: Waiter, queue: deque[Waiter]) -> None:
        if not queue and not self._calls and self._fits(waiter.units):
            self._reserved += waiter.units
            return
        queue.append(waiter)
        self._serve()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            with suppress(ValueError):
                queue.remove(waiter)
            if waiter.granted.cancelled():
                self._serve()
            elif waiter.granted.exception() is None:  # it was granted in the same moment
                self.give_back(waiter.units)
            raise

    def _serve(self) -> None:
        """Grants what fits, in order, calls before new games; refuses what cannot fit any more, and one call where all that is
        reserved belongs to games whose calls wait for each other."""
        for queue in (self._calls, self._games):
            while queue:
                waiter = queue[0]
                if waiter.granted.cancelled():
                    queue.popleft()
                elif self._fits(waiter.units):
                    queue.popleft()
                    self._reserved += waiter.units
                    waiter.granted.set_result(None)
                elif self._spent + waiter.units > self._limit:
                    queue.popleft()
                    waiter.granted.set_exception(self._exhausted(waiter))
                elif queue is self._calls and self._stuck():
                    stuck = next((other for other in queue if other.account is not None), waiter)
                    queue.remove(stuck)
                    stuck.granted.set_exception(self._exhausted(stuck))
                else:
                    return

    def _stuck(self) -> bool:
        """Whether every call in progress waits here, and every admitted game for one of them: nobody will give back."""
        if len(self._calls) < self._open_holds:
            return False
        waiting = [waiter for waiter in self._calls if not waiter.granted.done()]
        if len(waiting) < self._open_holds:
            return False
        blocked = [waiter.account for waiter in waiting]
        return all(any(account is other for other in blocked) for account in self._accounts.values())

    def _exhausted(self, waiter: Waiter) -> BudgetError:
        return BudgetError(
            f"the budget of ${self.limit:.2f} is spent: ${self.spent:.4f} are gone, and {waiter.what} may cost up to "
            f"${waiter.units / UNITS:.4f}. Give more with --budget; a run goes on with --resume --budget"
        )


class Hold:
    """One call's dollars. `secure` before each attempt, `settle` after it, and `close` in any case."""

    def __init__(self, budget: Budget, account: Account | None, most: float) -> None:
        self._budget, self._account, self._most = budget, account, _units(most)
        self._unbounded = budget.limit is None or self._most == 0
        self._first = True
        self._held = 0
        self._out = 0

    @property
    def admitted(self) -> bool:
        """Whether the call belongs to an admitted game."""
        return self._account is not None

    async def secure(self) -> None:
        """Sets the worst case of an attempt aside. Raises `BudgetError` where it cannot be had."""
        if not self._unbounded and (missing := self._draw()):
            await self._budget.take(missing, self._account)
            self._held += missing
        self._send_out()

    def try_secure(self) -> bool:
        """Like `secure`, but only if it can be had at once."""
        if not self._unbounded and (missing := self._draw()):
            if not self._budget.try_take(missing):
                return False
            self._held += missing
        self._send_out()
        return True

    def settle(self, dollars: float) -> None:
        """An attempt that was secured has cost so much, at most `most`."""
        units = _units(dollars)
        assert 0 <= units <= self._most, (dollars, self._most)
        self._out -= 1
        if self._unbounded:
            self._budget.pay_freely(units)
        else:
            self._held += self._most - units
            self._budget.pay(units)

    def close(self) -> None:
        """Hands on what is left: to the game while it is played, else to all."""
        assert self._out == 0
        left, self._held = self._held, 0
        if self._account is not None and not self._account.closed:
            self._account.surplus += left
            left = 0
        self._budget.close_hold(left)

    def _send_out(self) -> None:
        self._out += 1
        if not self._unbounded:
            self._held -= self._most
            assert self._held >= 0

    def _draw(self) -> int:
        """Takes what the game's account has for an attempt; returns what is still missing. Only a call's first attempt draws on
        the plan, which so keeps one attempt for every call to come."""
        missing, account = max(0, self._most - self._held), self._account
        if account is not None and not account.closed:
            planned = min(missing, account.planned) if self._first else 0
            surplus = min(missing - planned, account.surplus)
            account.planned -= planned
            account.surplus -= surplus
            self._held += planned + surplus
            missing -= planned + surplus
        self._first = False
        return missing


def _units(dollars: float) -> int:
    """Rounded up, but for the last digits of a float."""
    return math.ceil(dollars * UNITS - 1e-3)
