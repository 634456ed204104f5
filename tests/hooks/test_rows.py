"""Row -> slot, and the ledger that refuses another profile's KV."""

import numpy as np
import pytest

from mooring_hooks.rows import Batch, BlockLedger, BlockTable, ForeignBlock, SlotRows
from mooring_hooks.table import ProfileEntry, Settings

OFF, CAPPED, RESPONSE, TWIN = range(4)


@pytest.fixture
def settings() -> Settings:
    """off, capped, response, and a twin of capped (equal content, other name)."""
    entries = [("off", "", "all"), ("capped", "c", "all"), ("response", "r", "response"), ("twin", "c", "all")]
    return Settings("t", "capped", 16, tuple(ProfileEntry(n, d, p, True) for n, d, p in entries))


def batch(*requests: tuple[int, int, int, int]) -> Batch:
    """Requests as (slot, prompt length, computed, scheduled)."""
    return Batch(*(np.array(column, np.int64) for column in zip(*requests, strict=True)))


def blocks(*ids: int) -> BlockTable:
    """Of the one request of a batch, in a runner that knows another one before it; blocks of 4."""
    table = np.array([[99] * len(ids), ids], np.int32)
    return BlockTable(block_size=4, ids=table, of=np.array([1]))


def check(ledger: BlockLedger, slot: int, prompt_length: int, computed: int, *ids: int) -> None:
    ledger.check("a", 0, batch((slot, prompt_length, computed, 1)), blocks(*ids))


def test_every_row_has_the_slot_of_its_request(settings: Settings) -> None:
    step = batch((CAPPED, 5, 0, 3), (OFF, 1, 4, 1), (TWIN, 9, 2, 2))
    assert SlotRows(settings).of(step).tolist() == [1, 1, 1, 0, 3, 3]


def test_response_leaves_the_prompt_alone_by_absolute_position(settings: Settings) -> None:
    prefill, decode, resumed = (RESPONSE, 4, 0, 4), (RESPONSE, 4, 4, 1), (RESPONSE, 4, 0, 7)
    assert SlotRows(settings).of(batch(prefill, decode, resumed)).tolist() == [0] * 4 + [2] + [0] * 4 + [2] * 3


def test_positions_follow_each_request(settings: Settings) -> None:
    assert batch((OFF, 0, 7, 2), (OFF, 0, 0, 3)).positions().tolist() == [7, 8, 0, 1, 2]


@pytest.fixture
def ledger(settings: Settings) -> BlockLedger:
    """Blocks of 4: block 5 written uncapped, 6 capped, 7 by a response profile (2 prompt, 2 generated)."""
    ledger, rows = BlockLedger(settings), SlotRows(settings)
    for slot, prompt, block in ((OFF, 4, 5), (CAPPED, 4, 6), (RESPONSE, 2, 7)):
        step = batch((slot, prompt, 0, 4))
        ledger.write(step, rows.of(step), blocks(block))
    return ledger


@pytest.mark.parametrize(("slot", "block"), [(OFF, 5), (CAPPED, 6), (TWIN, 6), (RESPONSE, 5)])
def test_blocks_of_the_same_content_may_be_read(ledger: BlockLedger, slot: int, block: int) -> None:
    check(ledger, slot, 8, 4, block)


@pytest.mark.parametrize(
    ("slot", "block", "names"),
    [(OFF, 6, "'capped'"), (CAPPED, 5, "uncapped"), (RESPONSE, 6, "'capped'"), (OFF, 7, "'response'"),
     (CAPPED, 9, "no request wrote")],
)  # fmt: skip
def test_a_foreign_block_is_refused_by_name(ledger: BlockLedger, slot: int, block: int, names: str) -> None:
    with pytest.raises(ForeignBlock, match=names):
        check(ledger, slot, 8, 4, block)


def test_a_resumed_response_finds_its_own_generated_blocks(ledger: BlockLedger) -> None:
    check(ledger, RESPONSE, 2, 4, 7)


def test_the_null_block_is_nobodys(ledger: BlockLedger) -> None:
    check(ledger, CAPPED, 8, 8, 0, 6)


def test_a_block_that_is_written_again_changes_hands(ledger: BlockLedger, settings: Settings) -> None:
    step = batch((CAPPED, 4, 0, 4))
    ledger.write(step, SlotRows(settings).of(step), blocks(5))
    check(ledger, CAPPED, 8, 4, 5)


def test_block_numbers_beyond_the_first_thousand_fit(ledger: BlockLedger, settings: Settings) -> None:
    step = batch((CAPPED, 4, 0, 4))
    ledger.write(step, SlotRows(settings).of(step), blocks(70_000))
    check(ledger, CAPPED, 8, 4, 70_000)
