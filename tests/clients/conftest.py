"""The server that every client talks to."""

import pytest

from servers import Server


@pytest.fixture(scope="package")
def server(mooring_demo: Server) -> Server:
    return mooring_demo


@pytest.fixture(scope="package")
def stock(stock_demo: Server) -> Server:
    """For the one question whose fault an answer is; asked for where that comes up, which in most runs it does not."""
    return stock_demo
