"""A client that hangs up while it waits for a body.

vLLM's `with_cancellation` then returns None, which goes out as the body `null` with status 200: nobody reads it, but
it must not end in an exception, whose traceback would be in the log for every client that leaves.
"""

import pytest

from mooring_server.splice import into_body


@pytest.mark.xfail(raises=ValueError, strict=True, reason="a body without an object is not expected yet")
def test_a_body_that_is_no_object_passes_untouched() -> None:
    assert into_body(b"null", b'"mooring":{}') == b"null"
